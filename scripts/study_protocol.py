"""What the study compares, and how it chooses: docs/study.md as data and functions.

A trial is a setting of a method's own weights that the search tries; a variant is a form of a
method that the paper leaves open.
"""

import math
from typing import NamedTuple

from common import UserError
from tasks.glue import get_task
from tasks.reading import read_examples

# tokens per row, --max_seq_length, of a task; all other tasks have 64
LENGTHS = {"MRPC": 80, "RTE": 128, "QNLI": 128, "MNLI": 128, "QQP": 128}
ENOUGH = 5  # points by which a teacher's dev score must exceed the best constant answer's
STABLE = 5  # points; a rate is stable if the seeds of the student alone differ by less
RATES = (1e-6, 1e-2)  # learning rates: choose_rate asks for none below or above these


class Method(NamedTuple):
    """A method's command, and the flags of each of its trials, from small to large weights."""

    command: str
    trials: tuple = ()


def baseline(method, *trials):
    return Method(f"baselines/glue_with_baseline.py --method {method}", trials)


# in the order in which a study runs them
METHODS = {
    "none": baseline("none"),
    "vkd": baseline("vkd", "--alpha 0.2", "--alpha 0.5", "--alpha 0.7"),
    "fsd_i": Method("glue_with_cka_i.py --internal", ("--beta 4", "--beta 16", "--beta 64")),
    "fsd_ilg": Method(
        "glue_with_cka_ilg.py --beta 1 --gamma_m 1e-4",
        (
            "--gamma_i 4 --gamma_l 4 --gamma_g 1",
            "--gamma_i 16 --gamma_l 1 --gamma_g 0.1",
            "--gamma_i 64 --gamma_l 1 --gamma_g 0.01",
        ),
    ),
    "minilm": baseline("minilm", "--beta 0.1", "--beta 1", "--beta 10"),
    "rkd": baseline(
        "rkd",
        "--gamma_d 10 --gamma_a 20",
        "--gamma_d 100 --gamma_a 200",
        "--gamma_d 1000 --gamma_a 2000",
    ),
    "fsd_l": Method("glue_with_cka_i.py", ("--beta 4", "--beta 16", "--beta 64")),
    "fsd_il": Method(
        "glue_with_cka_ilg.py --beta 1 --gamma_g 0",
        ("--gamma_i 4 --gamma_l 4", "--gamma_i 16 --gamma_l 1", "--gamma_i 64 --gamma_l 1"),
    ),
    "pkd": baseline("pkd", "--beta 10", "--beta 100", "--beta 1000"),
    "fsd_g": Method(
        "glue_with_cka_g.py --beta 1", ("--gamma_m 1e-6", "--gamma_m 1e-4", "--gamma_m 1e-2")
    ),
    "procrustes": baseline("procrustes", "--beta 1", "--beta 10", "--beta 100"),
    "gram": baseline("gram", "--beta 1", "--beta 10", "--beta 100"),
}
# forms of our own that are not in the protocol: run if they are named, with the published form's
# trials and seeds
OURS = {
    f"{name}_averaged": METHODS[name]._replace(
        command=f"{METHODS[name].command} --student_memory_init averaged"
    )
    for name in ("fsd_ilg", "fsd_g")
}
KNOWN = METHODS | OURS
RATE_METHODS = ("none", "vkd", "fsd_i")
RIVALS = ("none", "vkd", "pkd", "rkd", "minilm", "gram", "procrustes")  # all but FSD's methods
CLAIMED = ("vkd", "fsd_i", "fsd_ilg", "fsd_ilg_averaged")


class Variant(NamedTuple):
    """A form of a method: the flags added to the method's own, and the folder of its memory."""

    method: str
    flags: str
    memory: str = "memory"


VARIANTS = {
    "fsd_i_masked": Variant("fsd_i", "--mask_padding"),
    "fsd_i_grouped": Variant("fsd_i", "--group_by_length"),
    "fsd_i_masked_grouped": Variant("fsd_i", "--mask_padding --group_by_length"),
    "fsd_i_debiased": Variant("fsd_i", "--cka_estimator debiased"),
    "fsd_l_debiased": Variant("fsd_l", "--cka_estimator debiased"),
    "fsd_l_first": Variant("fsd_l", "--sample_features first"),
    "fsd_l_masked": Variant("fsd_l", "--mask_padding"),
    "fsd_g_released_6": Variant(
        "fsd_g", "--beta 1e-6 --student_memory_init released", "memory_released"
    ),
    "fsd_g_released_7": Variant(
        "fsd_g", "--beta 1e-7 --student_memory_init released", "memory_released"
    ),
    "none_other_layers": Variant("none", "OTHER_LAYERS"),
    "vkd_other_layers": Variant("vkd", "OTHER_LAYERS"),
    "fsd_i_other_layers": Variant("fsd_i", "OTHER_LAYERS"),
}
MEMORIES = {"memory_released": "--memory_init released --per_gpu_memory_train_batch_size 1"}


# ---- what is chosen ------------------------------------------------------------------------------


def choose_rate(scores, constant=-math.inf):
    """(the learning rate chosen, None), or (None, a rate to try before one can be chosen).

    scores: {method: {rate: [score of each seed, in %]}}. constant: the score in % of the best
    constant answer, the same for all rows. If a method's best rate is the least or the greatest
    tried, half or twice that rate is to be tried first. Else a rate can be chosen if the student
    alone is stable there (its seeds are less than STABLE points apart), and if every method's mean
    is above the constant answer, as collapsed students are stable, too. Of these rates the one with
    the greatest mean over the methods is chosen. UserError if there is none.
    """
    rates = sorted(scores["none"])
    means = {
        method: {rate: sum(found[rate]) / len(found[rate]) for rate in rates}
        for method, found in scores.items()
    }
    for found in means.values():
        best = max(rates, key=lambda rate: (found[rate], rate not in (rates[0], rates[-1])))
        for edge, beyond in ((rates[0], best / 2), (rates[-1], best * 2)):
            if best == edge and RATES[0] <= beyond <= RATES[1]:
                return None, float(f"{beyond:g}")
    stable = [
        rate
        for rate, found in sorted(scores["none"].items())
        if max(found) - min(found) < STABLE
        and min(means[method][rate] for method in means) > constant + 0.01
    ]
    if not stable:
        tried = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(
            f"at none of the learning rates {tried} are both the seeds of the student alone less "
            f"than {STABLE} points apart and all methods above the best constant answer: try "
            "others with --rates, or choose one with --learning_rate, and report why"
        )
    return max(stable, key=lambda rate: sum(found[rate] for found in means.values())), None


def constant_score(task, data_dir):
    """The score in % of the best answer that is the same for all rows of a task's dev set."""
    import numpy as np

    from training import classes  # here, so that --plan need not wait for numpy

    task = get_task(task)
    if task.labels is None:
        return 0.0  # a constant has no correlation
    labels = np.array([example.label for example in read_examples(task, data_dir, "dev")])
    return 100 * classes.constant_score(task, labels)
