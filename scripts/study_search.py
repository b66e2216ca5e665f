"""What a study's runs have found: scores of the learning rates, best trials, the best rival.

pandas is imported in the functions, so that a plan and --help wait for no library.
"""

from common import UserError, say
from scripts.study_protocol import ENOUGH, METHODS, RATE_METHODS, RIVALS, constant_score


def names_of(trial):
    """The flags of a trial, as "--beta 4"."""
    return [word for word in trial.split() if word.startswith("--")]


def read_scores(source, task):
    """choose_rate's scores, method -> rate -> [score, in %], of a search's folder or results.csv.

    UserError where a rate lacks a seed that another one has.
    """
    from analysis import best
    from analysis.runs import glue_score

    found = {}
    for method in RATE_METHODS:
        runs = best.read_search(source, None, f"rate_{method},", None, task)
        best.check_search(runs, ["--learning_rate"])
        runs = runs.assign(score=100 * glue_score(runs, task))
        found[method] = {
            float(rate): sorted(group.score) for rate, group in runs.groupby("--learning_rate")
        }
    tried = [{rate: len(scores) for rate, scores in rates.items()} for rates in found.values()]
    if any(one != tried[0] for one in tried) or len(set(tried[0].values())) > 1:
        raise UserError(
            f"{source} has other rates, or seeds of a rate, of one of {', '.join(RATE_METHODS)} "
            "than of another: finish the search of the learning rate there"
        )
    return found


def tell_scores(scores):
    """read_scores as text, "none 0.0001: 70.1 70.9, 0.0002: ...; vkd ..."."""
    return "; ".join(
        f"{method} "
        + ", ".join(
            f"{rate:g}: {' '.join(f'{score:.1f}' for score in found)}"
            for rate, found in rates.items()
        )
        for method, rates in scores.items()
    )


def best_trial(source, task, method, rate):
    """The flags of a method's best trial, as words; rate: the learning rate they must be of."""
    from analysis import best

    trials = METHODS[method].trials
    names = names_of(trials[0])
    runs = best.read_search(source, None, f"trial_{method}-", len(trials), task)
    best.check_search(runs, names)
    tried = runs["--learning_rate"].iloc[0]
    if rate != tried:
        raise UserError(
            f"the trials of {method} in {source} are of the learning rate {tried:g}, not "
            f"{rate:g}: weights chosen at one rate are not another's, so search again in another "
            "RUNS_DIR"
        )
    settings = best.ranking(runs, names)
    say(best.describe_best(runs, settings, names))
    return best.as_flags(names, settings.iloc[0]).split()


def best_rival(source, task, methods, seeds):
    """Of the methods that are not ours, the one with the best mean score; None without any."""
    from analysis import best
    from analysis.runs import glue_score

    means = {}
    for method in [m for m in methods if m in RIVALS]:
        runs = best.read_search(source, None, f"{method},", None, task)
        runs = runs[runs.seed.isin([int(seed) for seed in seeds])]
        means[method] = glue_score(runs, task).mean()
    return max(means, key=means.get) if means else None


def can_teach(source, task, data_dir):
    """Whether the final runs' teacher is ENOUGH points above the constant answer on dev."""
    from analysis import best
    from analysis.runs import glue_score

    runs = best.read_search(source, "teacher", None, 1, task)
    score, constant = 100 * glue_score(runs, task).iloc[0], constant_score(task, data_dir)
    good = score >= constant + ENOUGH
    but = f": less than {ENOUGH} points above, so it teaches nothing and the task is left out"
    say(
        f"{task}: the teacher has {score:.1f} on dev, the best constant answer {constant:.1f}"
        f"{'' if good else but}"
    )
    return good
