"""Where the time of a training step goes, and whether a GPU's queue ever runs dry.

    python benchmarks/profile_step.py --form FSD_ILG --csv FILE --trace FILE

Steps of one form of benchmarks/forms.py run one after the other under torch.profiler, as between
two log steps; with bert-base in bf16 unless told otherwise. The table has the twenty operations
that take most time themselves, without the operations that they call: calls and milliseconds per
step, and share of the time. On a GPU four more lines follow:

busy      the share of the time from the first kernel to the last in which at least one kernel ran
gaps      how often per step the GPU had nothing to run for longer than 20 µs, and the milliseconds
          of these gaps
waits     the calls per step in which the host waited for the GPU, and their milliseconds, without
          the wait after the last step
host      the milliseconds in which the host enqueued a step: if they are fewer than the step takes,
          the queue is never empty

The profiler slows the host down, so that a GPU's queue looks emptier than it is. The last line is
the time of a step without the profiler.

--trace is a file for a browser's trace viewer (chrome://tracing, ui.perfetto.dev); its ending says
whether it is compressed (.json or .json.gz).
"""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import step as benchmark
import torch
from forms import FORMS
from report import positive, report, seconds_each  # puts the repository on the path

from common import UserError, atomic_path, cli, expand_path_or_none, say
from training import flags

GAP = 20  # microseconds
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def run(args):
    """The profile of args.profiled steps, the device, and a step's seconds without the profiler."""
    device, rows, batches_of, make_accelerator = benchmark.prepare(args)
    step = FORMS[args.form].make(args, rows, batches_of(args.form), make_accelerator()).take

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    alone = seconds_each(step, args.profiled, device)
    wait()
    with torch.profiler.profile() as found:
        for number in range(args.profiled):
            with torch.profiler.record_function(f"step {number}"):
                step()
        wait()
    return found, device, alone


def operations(found, device, profiled):
    """Rows of the table for the twenty operations that take most time themselves.

    found: the profile. profiled: the number of steps in it.
    """
    cuda = device.type == "cuda"

    def own(event):
        return event.self_device_time_total if cuda else event.self_cpu_time_total

    events = [
        event
        for event in found.key_averages()
        if event.device_type == torch.autograd.DeviceType.CPU and not event.key.startswith("step ")
    ]
    events.sort(key=own, reverse=True)
    total = sum(map(own, events)) or 1
    return [
        {
            "operation": event.key,
            "calls": round(event.count / profiled, 1),
            "ms": round(own(event) / profiled / 1e3, 3),
            "%": round(100 * own(event) / total, 1),
        }
        for event in events[:20]
    ]


def busy_and_gaps(intervals):
    """(microseconds in which something ran, [microseconds of each pause between]).

    intervals: the (start, end) of each kernel, in microseconds.
    """
    busy, gaps, reached = 0.0, [], None
    for start, end in sorted(intervals):
        if reached is None or start > reached:
            gaps += [] if reached is None else [start - reached]
            busy, reached = busy + end - start, end
        elif end > reached:
            busy, reached = busy + end - reached, end
    return busy, gaps


def queue(found, profiled):
    """The four rows about a GPU's queue; [] if nothing ran on a GPU."""
    kinds = torch.autograd.DeviceType
    events = list(found.events())
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == kinds.CUDA and not event.is_user_annotation
    ]
    steps = [
        event
        for event in events
        if event.device_type == kinds.CPU and event.name.startswith("step ")
    ]
    if not kernels:
        return []
    busy, gaps = busy_and_gaps(kernels)
    span = max(end for _, end in kernels) - min(start for start, _ in kernels)
    gaps = [gap for gap in gaps if gap > GAP]
    until = max(event.time_range.end for event in steps)
    waits = [event for event in events if event.name in WAITS and event.time_range.start < until]
    names = dict(Counter(event.name for event in waits)) or "none"
    say(f"waits for the GPU in {profiled} steps: {names}")

    def line(name, microseconds, calls="", share=""):
        return {
            "operation": name,
            "calls": calls,
            "ms": round(microseconds / profiled / 1e3, 3),
            "%": share,
        }

    def duration_of(timed):
        return sum(event.time_range.elapsed_us() for event in timed)

    return [
        line("(busy)", busy, share=round(100 * busy / span, 1)),
        line(
            f"(gaps over {GAP} µs)",
            sum(gaps),
            round(len(gaps) / profiled, 1),
            round(100 * sum(gaps) / span, 1),
        ),
        line("(waits)", duration_of(waits), round(len(waits) / profiled, 1)),
        line("(host)", duration_of(steps)),
    ]


def write_trace(found, path):
    """Write the trace to a file, whole or not at all; compressed if the file ends in .gz."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / ("trace.json.gz" if path.suffix == ".gz" else "trace.json")
        found.export_chrome_trace(str(written))
        with atomic_path(path) as temporary:
            shutil.copyfile(written, temporary)


def main(argv=None):
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("--form", choices=FORMS, default="FSD_ILG", help="Default FSD_ILG.")
    add("--profiled", type=positive, default=10, help="Steps. Default 10.")
    add("--trace", type=expand_path_or_none, help="Write the trace to this file.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    benchmark.add_flags(parser)
    parser.set_defaults(models=["bert-base"], precisions=["bf16"])
    args = parser.parse_args(argv)
    if len(args.models) > 1 or len(args.precisions) > 1:
        raise UserError(
            "a profile is of one model in one precision: name one in --models, one in --precisions"
        )
    found, device, alone = run(args)
    rows = operations(found, device, args.profiled) + queue(found, args.profiled)
    rows.append(
        {
            "operation": "(step, without the profiler)",
            "calls": "",
            "%": "",
            "ms": round(1e3 * alone, 3),
        }
    )
    facts = {
        "model": args.models[0],
        "precision": args.precisions[0],
        "form": args.form,
        "B": args.per_gpu_train_batch_size,
        "W": args.max_seq_length,
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report([facts | row for row in rows], args.csv, name)
    if args.trace:
        write_trace(found, Path(args.trace))


if __name__ == "__main__":
    sys.exit(cli(main))
