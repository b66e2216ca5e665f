"""Cluster a fine-tuned teacher's penultimate features over a whole training set: the memory of the
global structure.

    python train_memory.py --model_type bert --model_name_or_path TEACHER --data_dir DATA_DIR --task_name RTE \\
      --do_lower_case --do_train --per_gpu_train_batch_size 32 --max_seq_length 128 --num_centroid 100 \\
      --memory_num_train_epochs 3 --output_dir MEMORY

k-means (Euclidean) with one pass of the teacher over the data per epoch. Give MEMORY to
glue_with_cka_g.py and glue_with_cka_ilg.py as --teacher_memory_path, with this teacher, task and
--max_seq_length.
"""

import math
import sys

import choices
from common import UserError, cli, say
from glue_data.tasks import get_task
from training import flags

NO_USE = (
    "do_eval",
    "do_predict",
    "evaluate_during_training",
    "eval_all_checkpoints",
    "max_eval_samples",
    "max_predict_samples",
    "results_csv",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "max_steps",
    "warmup_steps",
    "warmup_ratio",
    "student_num_hidden_layers",
    "save_total_limit",
    "per_gpu_eval_batch_size",
    "group_by_length",
)


def memory_flags(parser):
    group = parser.add_argument_group("memory")
    add = group.add_argument
    add(
        "--num_centroid",
        type=int,
        help="C, centroids. Default: the paper's, 300 for MNLI and QQP, else 100.",
    )
    add(
        "--memory_num_train_epochs",
        type=int,
        help="Passes over the training set at most; fewer when no sample "
        "changes its cluster. Default: --num_train_epochs, which is 3.",
    )
    add(
        "--memory_learning_rate",
        type=float,
        nargs="?",
        const=1.0,
        default=1.0,
        help="How far a centroid goes from "
        "where it is towards the mean of its samples, above 0 and up to 1. Default, and without a "
        "value: 1, Lloyd's k-means.",
    )
    add(
        "--memory_init",
        choices=choices.MEMORY_INITS,
        default="kmeans++",
        help="Start: kmeans++ or random on real features. "
        "normal, ours: Gaussian with each coordinate's mean and variance. released, the authors': "
        "Gaussian with one mean and one variance, those of the last mini-batch's numbers divided "
        "by the number of mini-batches, and no restarts: centroids that never win stay. The "
        "mini-batches are this run's, of --per_gpu_memory_train_batch_size times processes; the "
        "authors' were of 1. Default kmeans++.",
    )
    add(
        "--per_gpu_memory_train_batch_size",
        "--per_device_memory_train_batch_size",
        type=int,
        help="Samples a process "
        "takes at a time; the memory is the same but for rounding, unless it starts as released. "
        "Default: --per_gpu_train_batch_size.",
    )
    add(
        "--mask_padding",
        action="store_true",
        help="Padded positions count as 0; for runs with --mask_padding.",
    )


def fill_in(args):
    """The defaults that follow from other flags."""
    if args.num_centroid is None:
        args.num_centroid = 300 if get_task(args.task_name).name in ("MNLI", "QQP") else 100
    if args.memory_num_train_epochs is None and math.isfinite(
        args.num_train_epochs
    ):  # else refused later
        args.memory_num_train_epochs = math.ceil(args.num_train_epochs)
    if args.per_gpu_memory_train_batch_size is None:
        args.per_gpu_memory_train_batch_size = args.per_gpu_train_batch_size


def parse(argv=None, doc=__doc__):
    """The arguments, and which of those that were given k-means has no use for."""
    parser = flags.Parser(doc)
    flags.shared_flags(parser)
    memory_flags(parser)
    args = parser.parse_args(argv)
    fill_in(args)
    return args, [name for name in NO_USE if getattr(args, name) != parser.get_default(name)]


def main(argv=None):
    args, idle = parse(argv)
    if idle:
        say(f"note: k-means has no use for --{', --'.join(idle)}")
    if not args.do_train:
        raise UserError("nothing to do: train_memory.py only trains, so pass --do_train")
    if args.memory_learning_rate == 0:
        raise UserError("--memory_learning_rate must be above 0: at 0 no centroid ever moves")
    flags.check_arguments(args)
    from training import clustering  # after the flags, as these import for seconds
    from training.session import open_session

    with open_session(args) as session:
        return clustering.run(session)


if __name__ == "__main__":
    sys.exit(cli(main))
