"""Compare the new runs of a ladder, a set of students of several sizes, with its finished runs.

If their settings differ, nothing is trained, as analysis/ladder.py would refuse the table at the
end.
"""

import importlib
from pathlib import Path

from common import UserError, read_json, sha256_of_file
from training import flags

SIZES = ("student_num_hidden_layers", "student_layers")
PRECISION = ("bf16", "fp16")
MODELS = ("model_name_or_path", "model_name_or_path_for_copy")


def check_earlier(sweep):
    """Refuse a sweep whose new runs have other settings than a finished run in its folder.

    sweep: a jobs.Sweep whose runs are named METHOD-SIZE,seed=N.
    """
    earlier = finished_runs(sweep.folder)
    new = {method_of(run.name): run for run in sweep.runs.values() if not run.finished}
    for method, run in new.items() if earlier else ():
        now = read_arguments(run)
        for name, then in earlier.items():
            differs = find_difference(now, then, method == method_of(name))
            if differs:
                flag, given, found = differs
                raise UserError(
                    f"the finished run {sweep.folder}/{name} has {in_words(flag, found)}, but the "
                    f"new runs have {in_words(flag, given)}: students of a ladder share their "
                    "settings, so give those of the finished run, or another folder with --runs"
                )


def finished_runs(folder):
    """{name of a run's folder: the run's flags} for the finished runs in a folder."""
    found = {path.parent.name: read_json(path) for path in sorted(Path(folder).glob("*/run.json"))}
    return {
        name: flags.as_of_today(run.get("arguments", {}))
        for name, run in found.items()
        if run.get("finished")
    }


def method_of(name):
    """The method, which is the first part of the name of a ladder's run."""
    return name.partition("-")[0]


def read_arguments(run):
    """{name: value} of the flags of a run not yet started, parsed by the run's own script."""
    at = next(i for i, word in enumerate(run.words) if word.endswith(".py"))
    path = Path(run.words[at])
    folder = ["baselines"] * (path.parent.name == "baselines")
    script = importlib.import_module(".".join([*folder, path.stem]))
    args = script.make_parser().parse_args(run.words[at + 1 :])
    if folder:
        script.fill_flags(args)  # with the defaults of its --method
    return vars(args)


def find_difference(now, then, same_method):
    """(flag, new value, old value) of the first flag that keeps two runs out of one table, or None.

    now, then: {flag: value} of the new run and of the finished run. same_method: whether both runs
    are of one method.
    """
    same_form = same_method and same_variant(now, then)
    for name, flag in flags.known().items():
        if name not in now or name not in then or not is_alike(flag, same_form):
            continue
        pair = now[name], then[name]
        if name in MODELS:
            # a student that train_teacher.py trained alone has no teacher to compare
            differs = "copy_teacher" in then and are_other_models(name, *pair)
        else:
            differs = any(map(is_given, pair)) and pair[0] != pair[1]
        if differs:
            return name, *pair
    return None


def is_alike(flag, same_form):
    """Whether a flag must have the same value in both runs.

    analysis/comparable.py applies the same rules to finished runs. same_form: whether the two runs
    are of one method with the same options.
    """
    if flag.name in MODELS:
        return True
    if flag.name in SIZES or flag.is_place or flag.role in ("seed", "free", "place", "action"):
        return False
    told = flag.role == "variant" and flag.caption
    return bool(same_form or told or flag.name in PRECISION or flag.role in ("budget", "data"))


def same_variant(now, then):
    """Whether two runs of a method have the same values of all flags that select a variant."""
    variants = [flag.name for flag in flags.named("variant")]
    return all(str(now.get(name)) == str(then.get(name)) for name in variants)


def is_given(value):
    return value is not None and value is not False and value != ""


def are_other_models(flag, one, other):
    """Whether two folders, or hub names, are known to hold different models.

    Weights are compared if both folders have them here. Else the last part of the path decides, and
    only for the model to copy, as another machine may keep it elsewhere.
    """
    if not (one and other) or one == other:
        return False
    files = [Path(folder, "model.safetensors") for folder in (one, other)]
    if all(file.is_file() for file in files):
        return sha256_of_file(files[0]) != sha256_of_file(files[1])
    return flag == "model_name_or_path_for_copy" and Path(one).name != Path(other).name


def in_words(flag, value):
    """A flag with its value as on a command line, or "no --flag" if it is not given."""
    if not is_given(value):
        return f"no --{flag}"
    return f"--{flag}" if value is True else f"--{flag} {value}"
