"""Why a structure helps or does not: what the loss terms of an ordinary training pull at.

    python analysis/probe.py --probes 20 --csv results/probe_mrpc.csv \\
      --figure docs/probe_mrpc.svg -- glue_with_cka_ilg.py FLAGS OF AN ORDINARY RUN
    python analysis/probe.py --probed results/probe_mrpc_*.csv --csv results/probe_mrpc.csv

The first command runs that script, whose training is bit for bit what it is without the probe. It
measures at --probes of the steps, evenly spaced from the first to the last:

gradients   of every loss term of weight above 0, times its weight, on the step's own mini-batch and
            dropout: norms with respect to the student's parameters θ, its penultimate features H
            and its memory M_s; with respect to θ also the cosines between terms, and as agreement
            the cosine between a term's gradients on two other mini-batches
CKA         signal: between student and teacher on the same mini-batch (structure L) or the same
            sample (structure I); noise: on two unrelated ones. Biased and debiased, on --batches
            mini-batches of training rows with all their padding (except what the run's flags leave
            out), the student with dropout. No I if the student has a tokenizer or length of its own
M_s         how far it has moved from its start; its CKA with the teacher's memory M_t; the
            cosines between features and centroids; the correlation, over samples and centroids, of
            the relations between h_s and M_s with those between h_t and M_t

The CSV has a number per row (step, quantity, term, other, value); the term G is the sum of F_MM,
F_E and F_C. The second command joins and draws such CSVs of runs that differ in their seed alone:
lines and numbers are means over the runs. A run that was stopped is resumed by the
same command, as any run is. The time that a probed run takes says nothing about its method. Memory:
two copies of the student's parameters per term.
"""

import hashlib
import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.markdown import find_markers, insert, read_document
from analysis.probe_tables import report, structures
from common import UserError
from training import flags, logs, records, results_csv

SCRIPTS = {
    f"{name}.py": name for name in ("glue_with_cka_i", "glue_with_cka_g", "glue_with_cka_ilg")
}
SCRIPTS["glue_with_baseline.py"] = "baselines.glue_with_baseline"
FIRST = ["task", "method", "seed", "commit", "settings"]
NO_SETTINGS = ("seed", "teacher cache", "no_cuda")  # of a run's settings: these may differ
COLUMNS = [*FIRST, "step", "quantity", "term", "other", "value"]
FIGURES = (".png", ".svg", ".pdf")


# ---- the training --------------------------------------------------------------------------------


def check_command(words):
    """Check the command of a run to probe, before anything is loaded.

    words: the script and its flags. Returns its module, the words of the flags, and these parsed.
    """
    script, *words = words
    name = SCRIPTS.get(Path(script).name)
    if not name:
        raise UserError(
            f"expected one of {', '.join(SCRIPTS)} after --, found {script}: name the script of a "
            "distillation, without python before it"
        )
    module = importlib.import_module(name)
    args = module.make_parser().parse_args(words)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "a probe measures a run of one process: start it without torchrun or accelerate launch"
        )
    if not args.do_train:
        raise UserError("a probe measures a training: pass --do_train to the script as well")
    if args.gradient_accumulation_steps > 1:
        raise UserError(
            "a probe measures the gradient of one mini-batch, and --gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps} makes a step of several: leave it out"
        )
    if args.results_csv:
        raise UserError(
            "a probed run takes longer than others, so its minutes must not stand beside those of "
            "other runs: leave --results_csv out"
        )
    return module, words, args


def train(words, probes, batches):
    """Run a script here, and measure gradients, CKA and M_s as it trains: a table of COLUMNS.

    words: the script and its flags. probes: how many steps are measured. batches: how many
    mini-batches CKA and M_s are measured on at each. UserError if the training was finished
    without a probe.
    """
    module, words, args = check_command(words)

    def loop(*arguments):
        from analysis.probing import ProbedLoop  # here, so that the flags are read without torch

        return ProbedLoop(*arguments, probes=probes, batches=batches)

    module.main(words, loop)
    output = Path(args.output_dir)
    run, path = records.read_run(output), output / "probe.jsonl"
    found = logs.read_log(path) if path.is_file() else []
    if not found:
        raise UserError(
            f"the training in {output} has no measurements in {path.name}, as it was finished "
            "without a probe, or has no step: name another --output_dir"
        )
    with records.complete_run(output):
        first = [run["arguments"]["task_name"], run["method"], run["seed"], run["commit"][:12]]
        first.append(fingerprint_of_settings(run, batches))
    return as_table([[*first, entry["step"], *row] for _, entry in found for row in entry["rows"]])


def fingerprint_of_settings(run, batches):
    """12 hex digits, the same for runs that differ in their seed alone, wherever their models and
    caches lie.

    run: the content of a run.json, whose settings are all that decides what is trained; models and
    data are in them by checksum. batches: as in train.
    """
    places = {flag.name for flag in flags.known().values() if flag.is_place}
    settings = {
        name: value
        for name, value in flags.as_of_today(run["settings"]).items()
        if name not in NO_SETTINGS and name not in places
    }
    whole = [settings, run.get("initial_weights"), run["device"], batches]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def as_table(rows):
    import pandas as pd  # here, so that the flags are read without it

    return pd.DataFrame(rows, columns=COLUMNS)


def read(paths):
    """Read CSVs that this command wrote, of runs that differ in their seed alone. Returns a table
    of COLUMNS.
    """
    import pandas as pd

    parts = [
        results_csv.read_checked_csv(
            path,
            COLUMNS,
            ["settings", "step", "quantity", "value"],
            ["seed", "step", "value"],
            "no table of today's analysis/probe.py",
        )[0][COLUMNS]
        for path in paths
    ]
    found = pd.concat(parts, ignore_index=True)
    found[["term", "other"]] = found[["term", "other"]].fillna("")
    kinds = found[["task", "method"]].drop_duplicates()
    if len(kinds) != 1:
        names = (
            ", ".join(f"{method} on {task}" for task, method in kinds.itertuples(index=False))
            or "no run"
        )
        raise UserError(
            f"--probed takes CSVs with runs of one method on one task, but these have {names}: "
            "give those of one method and task"
        )
    if found.settings.nunique() > 1:
        raise UserError(
            f"--probed takes CSVs of runs that differ in their seed alone, but these have "
            f"{found.settings.nunique()} settings (flags, models, data, or --batches): give those "
            "of one setting"
        )
    steps = {seed: tuple(sorted(of.step.unique())) for seed, of in found.groupby("seed")}
    if len(set(steps.values())) > 1:
        told = "; ".join(f"seed {seed} at {len(at)} steps" for seed, at in steps.items())
        raise UserError(
            f"--probed takes CSVs of runs that were measured at the same steps, but these have "
            f"{told}: measure all with the same --probes"
        )
    twice = found[found.duplicated(["seed", "step", "quantity", "term", "other"])].seed
    if len(twice):
        raise UserError(
            f"--probed has seed {twice.iloc[0]} twice, which would count double: give each run once"
        )
    return found


# ---- command line --------------------------------------------------------------------------------


def make_parser():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("command", nargs="*", default=[], help="After --: a distillation's script and its flags.")
    add(
        "--probed",
        nargs="+",
        metavar="CSV",
        help="Instead of a training: CSVs that this command wrote.",
    )
    add("--probes", type=int, default=20, help="Steps to measure. Default 20.")
    add(
        "--batches",
        type=int,
        default=4,
        help="Mini-batches for CKA and the memory at each of them. Default 4.",
    )
    add("--csv", help="Write all numbers to this file.")
    add("--figure", help="Draw them into this .png, .svg or .pdf.")
    add(
        "--insert",
        metavar="FILE",
        help="Put the printed tables into this Markdown file, between its lines <!-- table "
        "NAME --> and <!-- end NAME -->, NAME being that of the CSV without its ending.",
    )
    return parser


def check_arguments(args):
    """Refuse flags that cannot work. Returns the NAME in the markers of --insert, or None."""
    if bool(args.command) == bool(args.probed):
        raise UserError(
            "expected either -- and a script with its flags, or --probed and CSVs, found "
            f"{'both' if args.probed else 'neither'}: give one of them"
        )
    for name in ("probes", "batches"):
        if getattr(args, name) < 2:
            raise UserError(f"--{name} must be at least 2, got {getattr(args, name)}")
    if args.figure and Path(args.figure).suffix not in FIGURES:
        raise UserError(
            f"--figure {args.figure} must end in {', '.join(FIGURES[:-1])} or {FIGURES[-1]}"
        )
    sources = [args.csv] if args.csv else args.probed or []
    if args.insert and len(sources) != 1:
        raise UserError(
            "--insert puts the tables between the lines <!-- table NAME --> and <!-- end NAME -->, "
            "NAME being one CSV without its ending, and there is not one CSV: pass one with --csv"
        )
    name = Path(sources[0]).stem if args.insert else None
    if args.insert:
        find_markers(args.insert, read_document(args.insert), name)
    common.make_folders(
        args,
        csv=args.csv and common.follow(args.csv).parent,
        figure=args.figure and common.follow(args.figure).parent,
    )
    return name


def main(argv=None):
    args = make_parser().parse_args(argv)
    name = check_arguments(args)
    found = read(args.probed) if args.probed else train(args.command, args.probes, args.batches)
    if args.csv:
        with common.atomic_path(args.csv) as path:
            found.to_csv(path, index=False, float_format="%.7g")
    if args.figure:
        # here, as these import for seconds
        from analysis.figures import save
        from analysis.figures_probe import draw_probe

        save(draw_probe(found, structures(found)), args.figure)
    text = report(found)
    if args.insert:
        insert(args.insert, {name: text})
    print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
