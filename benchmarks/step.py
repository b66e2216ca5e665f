"""Throughput and peak memory of a training step: the published form, ours, rivals, VKD, the floor.

    python benchmarks/step.py --models bert-base minilm --precisions no bf16 --csv results/step.csv
    python benchmarks/step.py --models bert-base --precisions bf16 --forms methods --csv FILE
    python benchmarks/step.py --models minilm --forms peers --data_dir glue --task_name MRPC \\
      --tokenizer_name bert-base-uncased --batches 8 --steps 8 --no_peak --csv FILE

The second command makes the paper's Table 8. The third compares this project's loop with the loop
that everybody writes (benchmarks/plain_loop.py) and with TextBrewer's (pip install
textbrewer==0.2.1.post1), on real rows.

With bert-base, teacher and student have 12 and 6 layers, 768 wide; with minilm, 6 and 3, 384 wide;
both have random weights. A form is one way to take a step; benchmarks/forms.py explains all of
them. `methods` is short for the forms of every method, `methods, cached`, `methods, masked` and so
on for their variants, `peers` for those of the third command.

A step is everything from the rows in memory to the new weights. All forms of a model and a
precision run in one process, in turn, on the same --batches mini-batches, the first of an epoch;
forms that group rows by length take the first of an epoch of grouped rows. A round calls each form
twice for --steps steps and times the second call, without waiting for a GPU between its steps, as
in training. Throughputs are medians over the rounds, ratios are medians of the rounds' own ratios;
they compare within that process only.

W' is the mean length of a form's mini-batches, which are cut to their longest row unless the form
reads padding. "x VKD" compares with VKD as its script trains it, cut; "x VKD, same W'" with a
VKD that reads the same padding as the form of the row.

MFU is the share of a GPU's dense half-precision peak, by its data sheet, that the step's model
FLOPs take (see forms.model_flops; what the losses compute is not counted). "8192³" is the share
that a product of two matrices of that size reaches in the same process.

Peak memory is of a form alone: on a CPU the resident memory of a process that runs nothing else, on
a GPU what was allocated beyond what the other forms held.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from forms import DEFAULT, FORMS, GROUPS, SHAPES, model_flops, rows_of
from report import (  # puts the repository on the path
    calls_in_a_row,
    from_zero,
    positive,
    report,
    seconds,
    seconds_each,
)
from step_table import Measured

from common import UserError, cli, expand_path_or_none, say
from training import allocation, flags, models, unpadding
from training.batches import epoch_order
from training.session import peak_memory

# flags that each turn one of this project's optimisations off
SWITCHES = ("library_mask", "padded_encoder", "returned_memory", "unpinned")


def prepare(args):
    """(device, rows, batches_of, make_accelerator); batches_of(form) gives index tensors."""
    import accelerate

    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    if not args.returned_memory:
        allocation.keep_freed_memory()
    if not args.library_mask:
        models.mask_without_waiting()
    if args.padded_encoder:
        unpadding.WORTH = 1.0
    torch.manual_seed(0)
    rows = rows_of(args)
    lengths = rows["attention_mask"].sum(1)

    def batches_of(form):
        grouped = lengths if FORMS[form].grouped else None
        order = epoch_order(len(lengths), args.per_gpu_train_batch_size, 0, 0, grouped)
        return order[: args.batches]

    def make_accelerator():
        return accelerate.Accelerator(mixed_precision=args.precisions[0], cpu=device.type == "cpu")

    return device, rows, batches_of, make_accelerator


def widths_of(step, rows, batches):
    """The tokens per row of each mini-batch, as the form of `step` computes them, a list."""
    masks = [rows["attention_mask"][indices] for indices in batches]
    return [int(mask.sum(1).max()) if step.cut else mask.shape[1] for mask in masks]


def measure(args):
    """Measure the forms with one model and precision.

    Returns a dict. "seconds": of a step, a list with form -> seconds for each round. By form:
    "peaks" in MiB, "flops" of a step, "tokens" (W') and "samples" of a mini-batch. "left_out": the
    forms that could not be measured. "product": TFLOP/s of a large matrix product, or None.
    "device": its name.
    """
    began = time.perf_counter()
    device, rows, batches_of, make_accelerator = prepare(args)
    cuda, steps, left_out = device.type == "cuda", {}, []
    peaks, flops, tokens, samples = {}, {}, {}, {}
    for form in args.forms:
        batches, held = batches_of(form), torch.cuda.memory_allocated() if cuda else 0
        try:
            step = FORMS[form].make(args, rows, batches, make_accelerator())
            if cuda:
                torch.cuda.reset_peak_memory_stats()  # without filling a teacher cache
            for _ in range(max(2, len(batches))):  # the first one makes the optimizer's state
                step.take()
        except (RuntimeError, UserError, ImportError) as error:
            # too little memory; what a method refuses; a library that is not there
            say(f"error: {form} is left out: {' '.join(str(error).split())}")
            left_out.append(form)
            continue
        peaks[form] = peak_memory(device) - held // 2**20
        widths, sizes = widths_of(step, rows, batches), [len(indices) for indices in batches]
        flops[form] = statistics.mean(
            model_flops(form, args, *pair) for pair in zip(sizes, widths, strict=True)
        )
        tokens[form], samples[form] = statistics.mean(widths), statistics.mean(sizes)
        steps[form] = step.take
    times, number = [], args.steps or calls_in_a_row(device)
    for _ in range(args.rounds + 1):  # the first one warms up
        times.append({form: seconds_each(step, number, device) for form, step in steps.items()})
        if args.seconds and len(times) > 1 and time.perf_counter() - began > args.seconds:
            break
    return {
        "seconds": times[1:],
        "peaks": peaks,
        "flops": flops,
        "tokens": tokens,
        "samples": samples,
        "left_out": left_out,
        "product": product_rate(device) if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


def product_rate(device, size=8192, times=10):
    """TFLOP/s of the product of two bfloat16 matrices (size, size)."""
    x, y = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)

    def products():
        for _ in range(times):
            x @ y

    products()
    return 2 * size**3 * times / seconds(products, device) / 1e12


def child(args, model, precision, forms, rounds):
    """Run `measure` in a process of its own. Returns what it returned."""
    command = [
        sys.executable,
        __file__,
        "--measure",
        "--models",
        model,
        "--precisions",
        precision,
        "--forms",
        *forms,
        "--rounds",
        rounds,
    ]
    for name in (
        "max_seq_length",
        "per_gpu_train_batch_size",
        "dataloader_num_workers",
        "batches",
        "steps",
        "seconds",
        "data_dir",
        "task_name",
        "tokenizer_name",
    ):
        if getattr(args, name):
            command += [f"--{name}", getattr(args, name)]
    command += [f"--{name}" for name in ("no_cuda", *SWITCHES) if getattr(args, name)]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed why
    return json.loads(done.stdout.splitlines()[-1])


def table(args, model, precision):
    """The rows for one model and precision, the device, and the forms that are left out."""
    alone = len(args.models) == len(args.precisions) == 1  # a process has one precision
    on_gpu = torch.cuda.is_available() and not args.no_cuda  # there, a form's peak is its own
    if alone and on_gpu:
        found = measure(args)
    else:
        found = child(args, model, precision, args.forms, args.rounds)
    device, peaks = found["device"], found["peaks"]
    if device == "cpu":
        peaks = dict.fromkeys(peaks, "")
        for form in peaks if not args.no_peak else ():
            peaks[form] = child(args, model, precision, [form], 1)["peaks"][form]
    rows = Measured(found, precision).rows(peaks, common_columns(args, model))
    return rows, device, found["left_out"]


def common_columns(args, model):
    """The columns with the same value in all rows, three dicts in the order of the table: the first
    columns, those before the numbers, and those after them.
    """
    switches = [f"--{name}" for name in SWITCHES if getattr(args, name)]
    if args.dataloader_num_workers:
        switches.append(f"--dataloader_num_workers {args.dataloader_num_workers}")
    before = {"rows": args.task_name} if args.data_dir else {}
    before |= {"B": args.per_gpu_train_batch_size, "W": args.max_seq_length}
    return {"model": model}, before, {"with": " ".join(switches)} if switches else {}


def add_flags(parser):
    """The flags of a measurement, which benchmarks/profile_step.py has as well."""
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=SHAPES,
        default=["bert-base", "minilm"],
        help="Default: bert-base minilm.",
    )
    add(
        "--precisions",
        nargs="+",
        choices=("no", "bf16", "fp16"),
        default=["no", "bf16"],
        help="Default: no bf16.",
    )
    add("--per_gpu_train_batch_size", type=positive, default=32, help="B. Default 32.")
    add("--max_seq_length", type=positive, default=128, help="W. Default 128.")
    add(
        "--library_mask",
        action="store_true",
        help="Let transformers leave out attention masks "
        "without padding, for which it looks at them, and waits for a GPU.",
    )
    add(
        "--batches",
        type=positive,
        default=1,
        help="Mini-batches that are taken in turn; with "
        "several, --steps should be a multiple of it. Default 1.",
    )
    add(
        "--data_dir",
        type=expand_path_or_none,
        help="Folder with a task's .tsv files, for real rows instead of random ones.",
    )
    add("--task_name", default="MRPC", help="With --data_dir: a task of two classes. Default MRPC.")
    add(
        "--tokenizer_name",
        type=expand_path_or_none,
        default="bert-base-uncased",
        help="With --data_dir: folder or hub name. Default bert-base-uncased.",
    )
    add(
        "--dataloader_num_workers",
        type=from_zero,
        default=0,
        help="Processes that prepare mini-batches. Default 0.",
    )
    add(
        "--padded_encoder",
        action="store_true",
        help="On a CPU, let encoders compute what is left of padding in cut mini-batches.",
    )
    add(
        "--returned_memory",
        action="store_true",
        help="Let glibc return freed memory to the system, as it does by itself.",
    )
    add(
        "--unpinned",
        action="store_true",
        help="Mini-batches go to a GPU from memory that is not pinned.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")


def main(argv=None):
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add(
        "--forms",
        nargs="+",
        choices=[*FORMS, *GROUPS],
        default=DEFAULT,
        help=f"See above. Default: {', '.join(map(repr, DEFAULT))}.",
    )
    add(
        "--rounds",
        type=positive,
        default=5,
        help="Rounds after one to warm up; the median counts. Default 5.",
    )
    add(
        "--steps",
        type=positive,
        help="Steps in a row that are timed together. Default: 1 on a CPU, 10 on a GPU.",
    )
    add(
        "--seconds",
        type=positive,
        help="Take no further round, after the first, when so many have passed.",
    )
    add(
        "--no_peak",
        action="store_true",
        help="Leave out the peak memory on a CPU, which takes a process for each form.",
    )
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    add("--measure", action="store_true", help=argparse.SUPPRESS)  # one process's work
    add_flags(parser)
    args = parser.parse_args(argv)
    named = [form for name in args.forms for form in GROUPS.get(name, [name])]
    args.forms = list(dict.fromkeys(named))
    if args.measure:
        print(json.dumps(measure(args)))
        return
    rows, device, left_out = [], "cpu", []
    for model in args.models:
        for precision in args.precisions:
            found, device, missing = table(args, model, precision)
            rows, left_out = rows + found, left_out + missing
    report(rows, args.csv, device)
    return int(bool(left_out))  # each was named when it failed


if __name__ == "__main__":
    sys.exit(cli(main))
