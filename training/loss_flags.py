"""The flags of the distillations and of the memory: student, loss, structures. Roles are explained
in training/flags.py, limits in training/flag.py. In tables, variants are named in the order in
which they stand here.
"""

import argparse
import dataclasses
import itertools
import re
from pathlib import Path

import choices
from training.flag import Flag, Section
from training.padding_flags import PADDING

LOSS_TITLE = "loss: α CE + (1-α) KD + β structure"


def list_layers(word):
    """The argparse type of --student_layers: returns its text, as "0,2,4", or raises an
    ArgumentTypeError if that is not layer numbers in ascending order.
    """
    wanted = "expected layers counted from 0, in ascending order, with commas between, as 0,2,4"
    if not re.fullmatch("[0-9]{1,4}(,[0-9]{1,4})*", word):
        raise argparse.ArgumentTypeError(f"{wanted}; found {word!r}")
    layers = [int(layer) for layer in word.split(",")]
    for layer, following in itertools.pairwise(sorted(layers)):
        if layer == following:
            raise argparse.ArgumentTypeError(
                f"{wanted}; found layer {layer} twice in {word}: name it once"
            )
    if layers != sorted(layers):
        ordered = ",".join(map(str, sorted(layers)))
        raise argparse.ArgumentTypeError(f"{wanted}; found {word}: pass {ordered}")
    return ",".join(map(str, layers))


# ---- the loss ------------------------------------------------------------------------------------

CKA = Section(
    LOSS_TITLE,
    Flag(
        "cka_estimator",
        "variant",
        str,
        "biased",
        "Of I, L and F_MM: biased is the paper's; debiased keeps its signal when the batch is "
        "small beside the features' width. Default biased.",
        choices=choices.ESTIMATORS,
        of="FSD",
    ),
    Flag(
        "intra_reduction",
        "variant",
        str,
        "mean_log",
        "Of I: mean_log is Eq. 6; log_mean is the authors' released form. Default mean_log.",
        choices=choices.REDUCTIONS,
        of="FSD.*I",
    ),
)
LOSS = Section(
    LOSS_TITLE,
    Flag(
        "alpha",
        "weight",
        float,
        0.5,
        "α, weight of the cross-entropy; 1-α is KD's. Default 0.5.",
        least=0,
        most=1,
    ),
    Flag("temperature", "weight", float, 5.0, "τ of KD. Default 5.", above=0),
    Flag(
        "beta",
        "weight",
        float,
        1.0,
        "β, weight of the feature structure; 0 is VKD. Default 1.",
        least=0,
    ),
    *PADDING,
    Flag(
        "do_layerwise",
        "variant",
        bool,
        False,
        "Align student layers 1, 2, ... with every k-th layer of the teacher (k = teacher's / "
        "student's layers), averaged, instead of the penultimate layers.",
        of="(?!VKD$|none$)",
    ),
)
FEATURES = Section(
    LOSS_TITLE,
    Flag(
        "sample_features",
        "variant",
        str,
        "flat",
        "Of structures between samples, as L: what stands for a sample, all its tokens, W*D "
        "numbers (Eq. 7), or its first token, D numbers, a form of ours. Default flat.",
        choices=choices.SAMPLE_FEATURES,
        before="flat",
        beside=("internal", "gamma_l"),
    ),
)
INTERNAL = Section(
    LOSS_TITLE,
    Flag(
        "internal",
        "method",
        bool,
        False,
        "Align the structure between the tokens of a sample (I) instead of that between the "
        "samples of a mini-batch (L).",
    ),
)
METHOD = Section(
    LOSS_TITLE,
    Flag("method", "method", str, help="See above.", required=True, options={"type": str.lower}),
)
GAMMAS = Section(
    LOSS_TITLE,
    *(
        Flag(
            f"gamma_{letter}",
            "weight",
            float,
            1.0,
            f"Weight of the {name}, inside β; 0 switches it off. Default 1.",
            least=0,
        )
        for letter, name in (
            ("i", "intra-feature structure, I"),
            ("l", "local inter-feature structure, L"),
            ("g", "global inter-feature structure, G"),
        )
    ),
)

# ---- the memories --------------------------------------------------------------------------------

CACHE = Flag(
    "teacher_cache",
    "place",
    Path,
    help="Keep what is needed of the teacher in DIR, for all runs with this teacher, data and "
    "length: the first one computes it, features in half precision, the others read it.",
    options={"metavar": "DIR"},
)
MEMORY = Section(
    "memory",
    Flag(
        "num_centroid",
        "budget",
        int,
        help="C, centroids. Default: the paper's, 300 for MNLI and QQP, else 100.",
        least=1,
    ),
    Flag(
        "memory_num_train_epochs",
        "budget",
        int,
        help="Passes over the training set at most; fewer when no sample changes its cluster. "
        "Default: --num_train_epochs, which is 3.",
        least=1,
    ),
    Flag(
        "memory_learning_rate",
        "budget",
        float,
        1.0,
        "How far a centroid goes from where it is towards the mean of its samples, above 0 and up "
        "to 1. Default, and without a value: 1, Lloyd's k-means.",
        least=0,
        most=1,
        options={"nargs": "?", "const": 1.0},
    ),
    Flag(
        "memory_init",
        "variant",
        str,
        "kmeans++",
        "Start: kmeans++ or random on real features. normal, ours: Gaussian with each coordinate's "
        "mean and variance. released, the authors': Gaussian with one mean and one variance, those "
        "of the last mini-batch's numbers divided by the number of mini-batches, and no restarts: "
        "centroids that never win stay. The mini-batches are this run's, of "
        "--per_gpu_memory_train_batch_size times processes; the authors' were of 1. Default "
        "kmeans++.",
        choices=choices.MEMORY_INITS,
    ),
    Flag(
        "per_gpu_memory_train_batch_size",
        "budget",
        int,
        help="Samples a process takes at a time; the memory is the same but for rounding, unless "
        "it starts as released. Default: --per_gpu_train_batch_size.",
        aliases=("per_device_memory_train_batch_size",),
        least=1,
    ),
    CACHE,
    *PADDING,
)
GLOBAL = Section(
    LOSS_TITLE,
    Flag(
        "teacher_memory_path",
        "place",
        Path,
        help="The memory: the folder or file that train_memory.py wrote for this teacher, task "
        "and --max_seq_length.",
    ),
    Flag(
        "gamma_m",
        "weight",
        float,
        1e-6,
        "γ_m in G = F_MM + γ_m F_E + (1-γ_m) F_C; distances are hundreds of times larger than "
        "cosines, hence small. Default 1e-6.",
        least=0,
        most=1,
    ),
    Flag(
        "student_memory_init",
        "variant",
        str,
        "matched",
        "Start of the student's memory, which the paper only calls random. matched, ours: Gaussian "
        "with the mean and deviation of the teacher's memory. released, the authors': N(0, 1). "
        "averaged, ours: the features of the student before its training, averaged over the rows "
        "of each of the teacher's clusters, which takes a pass over the rows. Default matched.",
        choices=choices.STUDENT_MEMORY_INITS,
        of="FSD.*G",
        before="matched",
        beside=("gamma_m",),
    ),
    Flag(
        "student_memory_learning_rate",
        "variant",
        float,
        help="Peak rate of AdamW for the student's memory. Default: --learning_rate.",
        least=0,
        of="FSD.*G",
    ),
)

# ---- the student ---------------------------------------------------------------------------------

COPIED_LAYERS = Section(
    "student",
    Flag(
        "student_layers",
        "variant",
        str,
        help="Copy these layers of --model_name_or_path_for_copy, counted from 0, in this order, "
        "as 0,2,4,6,8,10, instead of the first ones; the student has so many.",
        caption="copied layers",
        before=None,
        beside=("student_num_hidden_layers",),
        options={"type": list_layers, "metavar": "I,J,..."},
    ),
)
COPIED_LAYERS_ALONE = Section(  # for a script without a teacher
    "student",
    dataclasses.replace(
        COPIED_LAYERS.flag("student_layers"),
        help=COPIED_LAYERS.flag("student_layers").help.replace("_for_copy", ""),
    ),
)
STUDENT = Section(
    "student",
    Flag("student_model_type", "free", str, help="Family of the student; checked."),
    Flag(
        "student_max_seq_length",
        "data",
        int,
        help="Tokens of a row as the student reads it, where that is not --max_seq_length.",
        least=2,
        before=None,
        beside=("copy_teacher",),
    ),
    Flag(
        "student_model_name_or_path",
        "place",
        Path,
        help="The student's own folder: a checkpoint of this project in it is resumed, unless "
        "--output_dir has one. Default: --output_dir.",
    ),
    Flag(
        "model_name_or_path_for_copy",
        "start",
        Path,
        help="Where the student's shape and first layers come from: the pretrained model, or the "
        "teacher's folder; default: the teacher.",
        caption="what they copy layers from",
    ),
    Flag(
        "copy_teacher",
        "start",
        bool,
        False,
        "Start the student from the first layers of --model_name_or_path_for_copy; without it the "
        "student starts at random.",
        caption="whether they copy layers",
    ),
    *COPIED_LAYERS,
    CACHE,
)
