"""Training throughput and peak memory of a whole step: the published form, ours, its rivals, vanilla KD, and the floor.

    python benchmarks/step.py --models bert-base minilm --precisions no bf16 --csv results/step.csv
    python benchmarks/step.py --models bert-base --precisions bf16 --forms methods --csv FILE    # the paper's Table 8

bert-base is 12 -> 6 layers, 768 wide, minilm 6 -> 3, 384 wide, both with random weights. All forms of a model and a
precision take the same mini-batch in turn, in one process; of two steps the second is timed. Throughputs are medians
over the rounds, ratios medians of the rounds' own ratios; they compare within that process only. A step is all from the
rows in memory to the new weights.

published   our yardstick for the released code, in float32: FSD_ILG by the formulas of benchmarks/losses.py, attention
            without a fused kernel, all hidden states, AdamW tensor by tensor, and a gradient graph through the teacher
FSD_ILG     this project's loop; cached: with --teacher_cache; masked: with --mask_padding and
            --group_by_length
VKD         the same loop without a structure
floor       the student's forward, backward and optimizer step alone, in the same loop
teacher     forward: its logits and features for a mini-batch; trained: train_teacher.py's step, for benchmarks/scale.py

These are the default. Further forms, all in the same loop:

FSD_I, FSD_L, FSD_G, FSD_IL                    glue_with_cka_ilg.py with weights of 0, whose structures are not computed
none, PKD, RKD, MiniLM, Gram, Procrustes       baselines/glue_with_baseline.py, each with its own defaults
methods                                        short for VKD, these ten, and FSD_ILG

Peak memory is of a process that runs one form alone: resident on a CPU, allocated on a GPU.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from typing import NamedTuple

import losses
import torch
from report import report, seconds  # puts the repository on the path

import distill
import glue_with_cka_ilg
import memory
import train_teacher
from baselines import glue_with_baseline
from training import flags, models
from training.batches import MiniBatch, Rows, epoch_order
from training.linear import quick_linears
from training.records import cli
from training.runs import peak_memory
from training.teacher import Teacher
from training.teacher_cache import TeacherCache, entries

SHAPES = {"bert-base": (12, {}), "minilm": (6, {"hidden_size": 384, "num_attention_heads": 12,
                                               "intermediate_size": 1536})}
CENTROIDS = 100


def classifier(args, device, part=1, attention="sdpa"):
    """A model of random weights with one of `part` of the teacher's layers."""
    import transformers
    depth, shape = SHAPES[args.models[0]]
    config = transformers.BertConfig(num_labels=2, num_hidden_layers=depth // part, **shape)
    return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).to(device)


def draw_rows(batch, length):
    """Rows of random words, as long as those of MRPC: 20 to 90 tokens, about 50 on average."""
    rows = 4 * batch
    lengths = (50 + 15 * torch.randn(rows)).clamp(20, min(90, length)).long()
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return {"input_ids": (torch.randint(1000, 30000, (rows, length)) * mask).int(), "attention_mask": mask.byte(),
            "token_type_ids": torch.zeros(rows, length, dtype=torch.uint8), "labels": torch.randint(2, (rows,))}


def draw_memory(args, model):
    """A teacher's memory of random numbers, (C, W*D)."""
    return torch.randn(CENTROIDS, args.max_seq_length * model.config.hidden_size, device=model.device)


# ---- the forms, each a function from (args, rows, indices, accelerator) to a function that takes one step ------------

class Script(NamedTuple):
    """A script that trains: its flags -> their namespace, and what it gives to training.runs.run."""
    parse: object
    terms: object
    check: object = lambda run, student, teacher: None


def baseline_flags(words):
    """The namespace of baselines/glue_with_baseline.py, with the method's own defaults."""
    run = glue_with_baseline.make_parser().parse_args(words)
    glue_with_baseline.fill_flags(run)
    return run


ALONE = Script(train_teacher.make_parser().parse_args, train_teacher.terms)
FSD = Script(glue_with_cka_ilg.make_parser().parse_args, glue_with_cka_ilg.terms)
BASELINE = Script(baseline_flags, glue_with_baseline.terms, glue_with_baseline.check)


def settings(args, script, own=""):
    """The namespace of a script's flags: a form's own ones and this benchmark's."""
    given = f"--model_name_or_path - --task_name RTE --data_dir - --output_dir - {own} --per_gpu_train_batch_size " \
            f"{args.per_gpu_train_batch_size} --max_seq_length {args.max_seq_length}"
    return script.parse([*given.split(), *(["--compile"] if args.compile else [])])


def steps_of(loop, indices):
    """A function that takes one step of a distill.Loop, always on the same mini-batch."""
    loop.student.train()
    return lambda: loop.step([loop.data[indices]], observe=False)


def model_alone(part, args, rows, indices, accelerator):
    """A model of one of `part` of the teacher's layers, without a teacher of its own."""
    run, model = settings(args, ALONE), classifier(args, accelerator.device, part)
    if not args.compile:
        quick_linears(model, accelerator)
    return steps_of(distill.Loop(run, accelerator, model, None, ALONE.terms(run), [], rows), indices)


def distillation(script, own, args, rows, indices, accelerator):
    """This project's loop, by a script and flags of the form's own."""
    run = settings(args, script, own)
    student, teacher = (classifier(args, accelerator.device, part) for part in (2, 1))
    script.check(run, student, teacher)
    if not args.compile:
        quick_linears(student, accelerator)
    pairs, memories = models.layer_pairs(run, student, teacher), None
    if flags.needs_memory(run):
        memories = memory.Memories(draw_memory(args, teacher), student.config.hidden_size, args.max_seq_length, 1)
    terms = script.terms(run, memories)
    teacher = Teacher(teacher.eval().requires_grad_(False), accelerator, args.compile)
    cache = filled_cache(run, teacher, rows, terms, pairs, memories) if run.teacher_cache else None
    return steps_of(distill.Loop(run, accelerator, student, teacher, terms, pairs, rows, cache), indices)


def filled_cache(run, teacher, rows, terms, pairs, memories):
    """A teacher cache of the rows, in a folder that lives as long as it does."""
    wanted = entries(distill.needs_of(terms), [layer for _, layer in pairs], teacher.model.config, run, memories)
    folder = tempfile.TemporaryDirectory()
    cache = TeacherCache(folder.name, {"task": "random"}, len(rows["labels"]), wanted)
    cache.place = folder
    return cache.complete(teacher, rows, run.per_gpu_train_batch_size, 10 ** 9)


def teacher_forward(args, rows, indices, accelerator):
    """The teacher's logits and penultimate features."""
    model = classifier(args, accelerator.device).eval().requires_grad_(False)
    teacher, data = Teacher(model, accelerator, args.compile), Rows(rows)
    return lambda: teacher(MiniBatch(data[indices], accelerator.device), (model.config.num_hidden_layers - 1,))


def published(args, rows, indices, accelerator):
    """The published form; every loss by itself, the teacher with a gradient graph."""
    device = accelerator.device
    student, teacher = (classifier(args, device, part, "eager") for part in (2, 1))
    student.train()
    teacher.eval()
    layer_s, layer_t = models.penultimate_pair(student, teacher)
    m_t = draw_memory(args, teacher)
    m_s = memory.Memories(m_t, student.config.hidden_size, args.max_seq_length, 1).student
    optimizer = torch.optim.AdamW([*student.parameters(), m_s], lr=1e-5, foreach=False, fused=False)

    def step():
        batch = {key: value.to(device) for key, value in Rows(rows)[indices]["inputs"].items()}
        labels = rows["labels"][indices].to(device)
        s, t = (model(**batch, output_hidden_states=True) for model in (student, teacher))
        h_s, h_t = s.hidden_states[layer_s], t.hidden_states[layer_t]
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


FORMS = {
    "published": published,
    "FSD_ILG": partial(distillation, FSD, ""),
    "FSD_ILG, cached": partial(distillation, FSD, "--teacher_cache DIR"),
    "FSD_ILG, masked": partial(distillation, FSD, "--mask_padding --group_by_length"),
    "VKD": partial(distillation, FSD, "--beta 0"),
    "VKD, cached": partial(distillation, FSD, "--beta 0 --teacher_cache DIR"),
    "floor": partial(model_alone, 2),
    "teacher, forward": teacher_forward,
    "teacher, trained": partial(model_alone, 1),
}
DEFAULT = list(FORMS)
FURTHER = {
    **{method.name: partial(distillation, BASELINE, f"--method {name}")
       for name, method in glue_with_baseline.METHODS.items() if method.name not in FORMS},
    "FSD_I": partial(distillation, FSD, "--gamma_l 0 --gamma_g 0"),
    "FSD_L": partial(distillation, FSD, "--gamma_i 0 --gamma_g 0"),
    "FSD_G": partial(distillation, FSD, "--gamma_i 0 --gamma_l 0"),
    "FSD_IL": partial(distillation, FSD, "--gamma_g 0"),
}
FORMS |= FURTHER
METHODS = ["VKD", *FURTHER, "FSD_ILG"]


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
        steps[form] = FORMS[form](args, rows, indices, make_accelerator())
    if args.profile:
        return profile(steps[args.profile], device)
    def second_step(step):
        step()  # gets the caches and the memory that the form before has left in another state
        return seconds(step, device)
    times = [{form: second_step(step) for form, step in steps.items()} for _ in range(args.rounds + 1)]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"seconds": times[1:], "peak": peak_memory(device), "device": name}


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
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
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
    add("--forms", nargs="+", choices=[*FORMS, "methods"], default=DEFAULT, help="See above. "
        f"Default: {', '.join(map(repr, DEFAULT))}.")
    add("--per_gpu_train_batch_size", type=int, default=32, help="B. Default 32.")
    add("--max_seq_length", type=int, default=128, help="W. Default 128.")
    add("--rounds", type=int, default=5, help="Rounds after one to warm up; the median counts. Default 5.")
    add("--compile", action="store_true", help="All but published with torch.compile; MiniLM refuses it.")
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--profile", choices=FORMS, help="Only print where the time of a step of this form goes, for the first model "
        "and precision.")
    add("--csv", help="Write the table to this file.")
    add("--measure", action="store_true", help=argparse.SUPPRESS)  # one process's work
    args = parser.parse_args(argv)
    args.forms = list(dict.fromkeys(form for name in args.forms for form in (METHODS if name == "methods" else [name])))
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
