"""What the paper searches, and in which ranges, as published, for scripts/reproduce.

Names of searches: vkd is vanilla KD; fsd_i, fsd_l, fsd_il and fsd_g search the weights of those
structures, fsd_ilg those of all three; _fine is a refined grid, _lr the learning rates at the best
weights; pkd, rkd and minilm are the rivals.
"""

from typing import NamedTuple

METHODS = ("none", "vkd", "pkd", "rkd", "minilm", "fsd_i", "fsd_l", "fsd_g", "fsd_il", "fsd_ilg")
RIVALS = ("pkd", "rkd", "minilm")
UNSTABLE = ("vkd", *RIVALS, "fsd_ilg")  # methods of the stage stability, with other batch sizes
STRUCTURES = "fsd_i fsd_l fsd_il fsd_g fsd_g_lr fsd_ilg fsd_ilg_lr".split()  # the searches of FSD
NEEDS = {  # stage -> the searches that must be finished before it, in order
    **{name: ["vkd"] for name in "fsd_i fsd_l fsd_il fsd_g fsd_g_fine baselines".split()},
    "fsd_g_lr": ["vkd", "fsd_g"],
    "fsd_ilg": ["vkd", "fsd_i", "fsd_l", "fsd_g"],
    "fsd_ilg_lr": ["vkd", "fsd_i", "fsd_l", "fsd_g", "fsd_ilg"],
}
KD = ("alpha", "temperature", "num_train_epochs")  # searched with VKD, then kept by every student
RATES = "3e-5 4e-5 5e-5 6e-5".split()
POWERS = "1e-7 1e-6 1e-5 1e-4 1e-3 1e-2 0.1 1.0".split()
TENTHS = "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9".split()
BATCHES = ["8", "16"]  # beside 32


class Settings(NamedTuple):
    """The settings that differ between tasks; the lists are values to try, as text."""

    teacher_rate: str = "2e-5"
    centroids: int = 100
    betas: list = "3 4 5 6".split()
    temperatures: list = "5 10 20".split()
    fine_gamma_m: list = TENTHS
    fine_beta: list = "6e-7 7e-7 8e-7 9e-7 1e-6 2e-6 3e-6 4e-6 5e-6".split()


def around(power):
    """Four numbers below and four above 10**power: 6e-7 to 9e-7 and 2e-6 to 5e-6 for -6."""
    return [f"{k}e{power - 1}" for k in (6, 7, 8, 9)] + [f"{k}e{power}" for k in (2, 3, 4, 5)]


FINE_BETA_7 = "6e-8 7e-8 8e-8 9e-8 1e-7 2e-7 3e-7 4e-7 5e-7".split()
SETTINGS = {
    "CoLA": Settings(),
    "MRPC": Settings(),
    "QNLI": Settings(),
    "RTE": Settings(fine_gamma_m=around(-6), fine_beta=TENTHS),
    "WNLI": Settings(teacher_rate="5e-5", fine_gamma_m=around(-6), fine_beta=TENTHS),
    "MNLI": Settings(centroids=300, fine_gamma_m=around(-6)),
    "SST-2": Settings(fine_gamma_m=around(-4), fine_beta=FINE_BETA_7),
    "QQP": Settings(centroids=300, fine_gamma_m=around(-2), fine_beta=FINE_BETA_7),
    "STS-B": Settings(
        teacher_rate="5e-5",
        betas="3 4 5 6 10".split(),
        temperatures=["5"],
        fine_beta=FINE_BETA_7,
    ),
}


def make_grid(search, of, beta_i="", beta_l=""):
    """{flag: values to try} of a search. of: the task's Settings. beta_i, beta_l: best β found."""
    fsd = {"beta": of.betas, "learning_rate": RATES}
    rate = {"learning_rate": RATES}
    return {
        "vkd": {
            "alpha": "0.2 0.5 0.7".split(),
            "temperature": of.temperatures,
            "learning_rate": "1e-5 2e-5 5e-5".split(),
            "num_train_epochs": "3 5 10".split(),
        },
        "fsd_i": fsd,
        "fsd_l": fsd,
        "fsd_il": fsd,
        "fsd_g": {"gamma_m": ["0", *POWERS], "beta": POWERS},
        "fsd_g_fine": {"gamma_m": of.fine_gamma_m, "beta": of.fine_beta},
        "fsd_g_lr": rate,
        "fsd_ilg": {
            "gamma_g": POWERS,
            "gamma_i": ["0.1", "1.0", beta_i],
            "gamma_l": ["0.1", "1.0", beta_l],
        },
        "fsd_ilg_lr": rate,
        "pkd": {"beta": "10 100 500 1000".split(), "learning_rate": RATES},
        "rkd": {
            "gamma_d": "100 1000 10000".split(),
            "gamma_a": "200 2000 20000".split(),
            "learning_rate": RATES,
        },
        "minilm": rate,
    }[search]


def titles(task, centroids):
    """{stage: its description}, in the order of the stages. centroids: C, of the memory."""
    rates = "learning rate, at the best weights"
    return {
        "split": "training rows held out to choose settings on",
        "teacher": "fine-tuned on the training set, and on what the split left of it for the "
        "search",
        "memory": f"k-means over each teacher's features, C = {centroids}",
        "vkd": "α, τ, learning rate and epochs of vanilla KD; all that follows keeps α, τ and "
        "epochs",
        **dict.fromkeys(("fsd_i", "fsd_l", "fsd_il"), "β and learning rate"),
        "fsd_g": "γ_m and β, coarse",
        "fsd_g_fine": f"γ_m and β, refined as published for {task}",
        "fsd_g_lr": rates,
        "fsd_ilg": "γ_g, γ_i and γ_l, with β 1 and the γ_m of FSD_G",
        "fsd_ilg_lr": rates,
        "baselines": "weights and learning rate",
        "final": "every method with its settings and all seeds, on the whole training set; the "
        "dev set is reported",
        "stability": "the same with other batch sizes",
        "tables": "the paper's tables, from these runs",
    }
