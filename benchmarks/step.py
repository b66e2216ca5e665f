"""Training throughput and peak memory of a whole step: the published form, ours, vanilla KD, and the floor.

    python benchmarks/step.py --models bert-base minilm --precisions no bf16 --csv results/step.csv

bert-base is 12 -> 6 layers, 768 wide, minilm 6 -> 3, 384 wide, both with random weights. All forms of a model and a
precision take the same mini-batch in turn, in one process; of two steps the second is timed. Throughputs are medians
over the rounds, ratios medians of the rounds' own ratios; they compare within that process only. A step is all from the
rows in memory to the new weights.

published   our yardstick for the released code, in float32: FSD_ILG by the formulas of benchmarks/losses.py, attention
            without a fused kernel, all hidden states, AdamW tensor by tensor, and a gradient graph through the teacher
FSD_ILG     this project's loop; cached: with --teacher_cache; masked: with --mask_padding
VKD         the same loop without a structure
floor       the student's forward, backward and optimizer step alone, in the same loop
teacher     forward: its logits and features for a mini-batch; trained: train_teacher.py's step, for benchmarks/scale.py

Peak memory is of a process that runs one form alone: resident on a CPU, allocated on a GPU.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile

import losses
import torch
from report import report, seconds  # puts the repository on the path

import distill
import glue_with_cka_ilg
import memory
from training import flags, models
from training.batches import MiniBatch, Rows, epoch_order
from training.linear import quick_linears
from training.records import cli
from training.teacher import Teacher
from training.teacher_cache import TeacherCache, entries

SHAPES = {"bert-base": (12, {}), "minilm": (6, {"hidden_size": 384, "num_attention_heads": 12,
                                               "intermediate_size": 1536})}
FORMS = {"published": None, "FSD_ILG": [], "FSD_ILG, cached": ["--teacher_cache", "DIR"],
         "FSD_ILG, masked": ["--mask_padding"], "VKD": ["--beta", "0"],
         "VKD, cached": ["--beta", "0", "--teacher_cache", "DIR"], "floor": None, "teacher, forward": None,
         "teacher, trained": None}
CENTROIDS = 100


def classifier(shape, layers, attention="sdpa"):
    import transformers
    config = transformers.BertConfig(num_labels=2, num_hidden_layers=layers, **shape)
    return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)


def draw_rows(batch, length):
    """Rows of random words, as long as those of MRPC: 20 to 90 tokens, about 50 on average."""
    rows = 4 * batch
    lengths = (50 + 15 * torch.randn(rows)).clamp(20, min(90, length)).long()
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return {"input_ids": (torch.randint(1000, 30000, (rows, length)) * mask).int(), "attention_mask": mask.byte(),
            "token_type_ids": torch.zeros(rows, length, dtype=torch.uint8), "labels": torch.randint(2, (rows,))}


def draw_memories(args, student, m_t):
    return memory.Memories(m_t, student.config.hidden_size, args.max_seq_length, 1)


# ---- the forms ------------------------------------------------------------------------------------------------------

def our_step(form, args, rows, indices, make_accelerator):
    """A function that takes one step of this project's loop."""
    depth, shape = SHAPES[args.models[0]]
    flags_of_form = [*(FORMS[form] or []), *(["--compile"] if args.compile else []), "--per_gpu_train_batch_size",
                     str(args.per_gpu_train_batch_size), "--max_seq_length", str(args.max_seq_length)]
    run = glue_with_cka_ilg.make_parser().parse_args(
        ["--model_name_or_path", "-", "--task_name", "RTE", "--data_dir", "-", "--output_dir", "-", *flags_of_form])
    accelerator = make_accelerator()
    student = classifier(shape, depth if form == "teacher, trained" else depth // 2).to(accelerator.device)
    if not args.compile:
        quick_linears(student, accelerator)
    if form in ("floor", "teacher, trained"):
        terms = {"ce": distill.vkd_terms(1.0, 1.0)["ce"]}
        loop = distill.Loop(run, accelerator, student, None, terms, [], rows)
    else:
        teacher = Teacher(classifier(shape, depth).to(accelerator.device).eval().requires_grad_(False), accelerator,
                          args.compile)
        m_t = torch.randn(CENTROIDS, args.max_seq_length * teacher.model.config.hidden_size, device=accelerator.device)
        if form == "teacher, forward":
            data = Rows(rows)
            return lambda: teacher(MiniBatch(data[indices], accelerator.device), (depth - 1,))
        memories, pairs = draw_memories(run, student, m_t) if run.beta else None, [(depth // 2 - 1, depth - 1)]
        terms, cache = glue_with_cka_ilg.terms(run, memories), None
        if run.teacher_cache:
            wanted = entries(distill.needs_of(terms), [depth - 1], teacher.model.config, run, memories)
            folder = tempfile.TemporaryDirectory()
            cache = TeacherCache(folder.name, {"task": "random"}, len(rows["labels"]), wanted)
            cache.place = folder  # lives as long as the cache
            cache.complete(teacher, rows, run.per_gpu_train_batch_size, 10 ** 9)
        loop = distill.Loop(run, accelerator, student, teacher, terms, pairs, rows, cache)
    loop.student.train()
    return lambda: loop.step([loop.data[indices]], observe=False)


def published_step(args, rows, indices, device):
    """A function that takes one step of the published form; every loss by itself, the teacher with a gradient graph."""
    depth, shape = SHAPES[args.models[0]]
    student = classifier(shape, depth // 2, "eager").to(device).train()
    teacher = classifier(shape, depth, "eager").to(device).eval()
    run = argparse.Namespace(max_seq_length=args.max_seq_length)
    m_t = torch.randn(CENTROIDS, args.max_seq_length * teacher.config.hidden_size, device=device)
    m_s = draw_memories(run, student, m_t).student
    optimizer = torch.optim.AdamW([*student.parameters(), m_s], lr=1e-5, foreach=False, fused=False)

    def step():
        batch = {key: value.to(device) for key, value in Rows(rows)[indices]["inputs"].items()}
        labels = rows["labels"][indices].to(device)
        s, t = (model(**batch, output_hidden_states=True) for model in (student, teacher))
        h_s, h_t = s.hidden_states[depth // 2 - 1], t.hidden_states[depth - 1]
        flat_s, flat_t = h_s.flatten(1), h_t.flatten(1)  # (B, W, D) -> (B, W*D)
        total = 0.5 * distill.task_loss(s.logits, labels) + 0.5 * distill.kd_loss(s.logits, t.logits, 5.0)
        total = total + losses.published_intra(h_s, h_t) + losses.published_rows(flat_s, flat_t)
        total = total + losses.published_rows(m_s, m_t)
        total = total + losses.published_feature_to_memory(flat_s, m_s, flat_t, m_t)
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        teacher.zero_grad()
    return step


# ---- measuring ------------------------------------------------------------------------------------------------------

def measure(args):
    """The rounds' seconds of a step by form, and the peak memory in MiB, for one model and precision."""
    import accelerate
    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    precision, steps = args.precisions[0], {}
    models.mask_without_waiting()
    torch.manual_seed(0)
    rows = draw_rows(args.per_gpu_train_batch_size, args.max_seq_length)
    lengths = rows["attention_mask"].sum(1)

    def make_accelerator():
        return accelerate.Accelerator(mixed_precision=precision, cpu=device.type == "cpu",
                                      dynamo_backend="inductor" if args.compile else None)
    for form in args.forms:
        masked = lengths if form.endswith("masked") else None  # as the loop groups them
        indices = epoch_order(len(lengths), args.per_gpu_train_batch_size, 0, 0, masked)[1]
        if form == "published":
            steps[form] = published_step(args, rows, indices, device)
        else:
            steps[form] = our_step(form, args, rows, indices, make_accelerator)
    if args.profile:
        return profile(steps[args.profile], device)
    def second_step(step):
        step()  # gets the caches and the memory that the form before has left in another state
        return seconds(step, device)
    times = [{form: second_step(step) for form, step in steps.items()} for _ in range(args.rounds + 1)]
    peak = torch.cuda.max_memory_allocated() / 2 ** 20 if device.type == "cuda" else (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"seconds": times[1:], "peak": round(peak), "device": name}


def profile(step, device):
    """Print where the time of a step goes, by operation."""
    step()
    with torch.profiler.profile() as found:
        step()
    print(found.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=25, max_name_column_width=50))


def child(args, model, precision, forms, rounds):
    """What `measure` returns, from a process of its own."""
    command = [sys.executable, __file__, "--measure", "--models", model, "--precisions", precision, "--forms", *forms,
               "--rounds", rounds, "--per_gpu_train_batch_size", args.per_gpu_train_batch_size, "--max_seq_length",
               args.max_seq_length, *(["--no_cuda"] if args.no_cuda else []), *(["--compile"] if args.compile else [])]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(args, model, precision):
    """The rows for one model and precision, and the device."""
    found = child(args, model, precision, args.forms, args.rounds)
    rounds = found["seconds"]
    rates = {form: args.per_gpu_train_batch_size / statistics.median(r[form] for r in rounds) for form in args.forms}

    def ratio(form, to):
        if to not in rates or form.startswith("teacher"):
            return ""
        return round(statistics.median(r[to] / r[form] for r in rounds), 3 if to.startswith("VKD") else 2)
    return [{"model": model, "precision": "no" if form == "published" else precision, "form": form,
             "B": args.per_gpu_train_batch_size, "W": args.max_seq_length, "examples / s": round(rates[form], 2),
             "x published": ratio(form, "published"),
             "x VKD": ratio(form, "VKD, cached" if form.endswith("cached") else "VKD"), "x floor": ratio(form, "floor"),
             "peak MiB": child(args, model, precision, [form], 1)["peak"]} for form in rates], found["device"]


def main(argv=None):
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="Default: both.")
    add("--precisions", nargs="+", choices=("no", "bf16", "fp16"), default=["no", "bf16"], help="Default: no bf16.")
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="Default: all.")
    add("--per_gpu_train_batch_size", type=int, default=32, help="B. Default 32.")
    add("--max_seq_length", type=int, default=128, help="W. Default 128.")
    add("--rounds", type=int, default=5, help="Rounds after one to warm up; the median counts. Default 5.")
    add("--compile", action="store_true", help="Ours and the floor with torch.compile.")
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--profile", choices=FORMS, help="Only print where the time of a step of this form goes, for the first model "
        "and precision.")
    add("--csv", help="Write the table to this file.")
    add("--measure", action="store_true", help=argparse.SUPPRESS)  # one process's work
    args = parser.parse_args(argv)
    if args.profile:
        args.forms = [args.profile]
        measure(args)
        return
    if args.measure:
        print(json.dumps(measure(args)))
        return
    rows, device = [], "cpu"
    for model in args.models:
        for precision in args.precisions:
            found, device = table(args, model, precision)
            rows += found
    report(rows, args.csv, device)


if __name__ == "__main__":
    sys.exit(cli(main))
