"""Read a study's finished runs: scores of the learning rates, best trials, the best rival.

The functions import pandas, so that --plan and --help need not wait for it.
"""

import math
import tempfile

from common import UserError, say
from scripts.hold_out import hold_out
from scripts.study_protocol import ENOUGH, KNOWN, RATE_METHODS, RIVALS, constant_score
from tasks.glue import get_task
from tasks.task import has_file


def names_of(trial):
    """The names of a trial's flags: "--beta 4" -> ["--beta"]."""
    return [word for word in trial.split() if word.startswith("--")]


def read_scores(source, task):
    """{method: {learning rate: [score of each seed, in %]}}, as choose_rate takes it.

    source: the folder of a search, or its results.csv. UserError if the methods were not tried at
    the same rates with the same number of seeds.
    """
    from analysis import best
    from analysis.runs import task_score

    found = {}
    for method in RATE_METHODS:
        runs = best.read_search(source, None, f"rate_{method},", None, task)
        best.check_search(runs, ["--learning_rate"])
        runs = runs.assign(score=100 * task_score(runs, task))
        found[method] = {
            float(rate): sorted(group.score) for rate, group in runs.groupby("--learning_rate")
        }
    tried = [{rate: len(scores) for rate, scores in rates.items()} for rates in found.values()]
    if any(one != tried[0] for one in tried) or len(set(tried[0].values())) > 1:
        raise UserError(
            f"{', '.join(RATE_METHODS)} were not all tried at the same learning rates with equally "
            f"many seeds in {source}: finish the search of the learning rate there"
        )
    return found


def tell_scores(scores):
    """What read_scores returns, as text: "none 0.0001: 70.1 70.9, 0.0002: ...; vkd ..."."""
    return "; ".join(
        f"{method} "
        + ", ".join(
            f"{rate:g}: {' '.join(f'{score:.1f}' for score in found)}"
            for rate, found in rates.items()
        )
        for method, rates in scores.items()
    )


def constant_elsewhere(source, task, args):
    """The score in % of the best constant answer on the rows that a search done elsewhere held out.

    They are not here, but scripts/hold_out.py draws the same ones each time. source: the search,
    for the UserError if the task's rows are not in args.data_dir; a plan gets a note instead.
    """
    task = get_task(task)
    if not has_file(task, args.data_dir, "train"):
        told = (
            f"the labels of {task.name} tell which learning rates of {source} ended in a constant "
            f"answer, and {args.data_dir} has none"
        )
        if args.plan:
            say(f"note: {told}, so this plan leaves no rate out")
            return -math.inf
        raise UserError(f"{told}: put its files there, or name the rate with --learning_rate")
    with tempfile.TemporaryDirectory() as folder:
        hold_out(task, args.data_dir, folder)
        return constant_score(task.name, folder)


def best_trial(source, task, method, rate):
    """The flags of a method's best trial, as words.

    source: the folder of a search, or its results.csv. rate: the learning rate; UserError if the
    trials had another one.
    """
    from analysis import best

    trials = KNOWN[method].trials
    names = names_of(trials[0])
    runs = best.read_search(source, None, f"trial_{method}-", len(trials), task)
    best.check_search(runs, names)
    tried = runs["--learning_rate"].iloc[0]
    if rate != tried:
        raise UserError(
            f"the trials of {method} in {source} have the learning rate {tried:g}, not the wanted "
            f"{rate:g}: the best weights depend on the rate, so give --learning_rate {tried:g}, or "
            "search again in a new RUNS_DIR"
        )
    settings = best.ranking(runs, names)
    say(best.describe_best(runs, settings, names))
    return best.as_flags(names, settings.iloc[0]).split()


def best_rival(source, task, methods, seeds):
    """The rival with the best mean score over the seeds; None if no rival is in `methods`.

    source: the folder of the final runs, or its results.csv.
    """
    from analysis import best
    from analysis.runs import task_score

    means = {}
    for method in [m for m in methods if m in RIVALS]:
        runs = best.read_search(source, None, f"{method},", None, task)
        runs = runs[runs.seed.isin([int(seed) for seed in seeds])]
        means[method] = task_score(runs, task).mean()
    return max(means, key=means.get) if means else None


def can_teach(source, task, data_dir):
    """Whether the teacher's dev score is ENOUGH points above the best constant answer's.

    source: the folder of the final runs, which has the teacher.
    """
    from analysis import best
    from analysis.runs import task_score

    runs = best.read_search(source, "teacher", None, 1, task)
    score, constant = 100 * task_score(runs, task).iloc[0], constant_score(task, data_dir)
    good = score >= constant + ENOUGH
    but = f": less than {ENOUGH} points above, so it teaches nothing and the task is left out"
    say(
        f"{task}: the teacher has {score:.1f} on dev, the best constant answer {constant:.1f}"
        f"{'' if good else but}"
    )
    return good
