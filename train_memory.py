"""Cluster a fine-tuned teacher's penultimate features over a whole training set: the memory of the
global structure.

    python train_memory.py --model_type bert --model_name_or_path TEACHER --data_dir DATA_DIR \\
      --task_name RTE --do_lower_case --do_train --per_gpu_train_batch_size 32 \\
      --max_seq_length 128 --num_centroid 100 --memory_num_train_epochs 3 --output_dir MEMORY

k-means (Euclidean) with one pass of the teacher over the data per epoch, or, with --teacher_cache,
one in all. Give MEMORY to glue_with_cka_g.py and glue_with_cka_ilg.py as --teacher_memory_path,
with this teacher, task and --max_seq_length.
"""

import math
import sys

from common import UserError, cli, say
from tasks.glue import usual_centroids
from training import checks, flags

NO_USE = [flag.name for section in flags.GLUE for flag in section if not flag.kmeans]


def fill_in(args):
    """Set the flags whose defaults follow from other flags."""
    if args.num_centroid is None:
        args.num_centroid = usual_centroids(args.task_name)
    epochs = args.num_train_epochs
    if args.memory_num_train_epochs is None and math.isfinite(epochs):  # else refused later
        args.memory_num_train_epochs = math.ceil(epochs)
    if args.per_gpu_memory_train_batch_size is None:
        args.per_gpu_memory_train_batch_size = args.per_gpu_train_batch_size


def make_parser(doc=__doc__):
    return flags.make_parser(doc, flags.MEMORY)


def parse(argv=None, doc=__doc__):
    """The arguments, and the names of those given that k-means has no use for."""
    parser = make_parser(doc)
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
    checks.check_arguments(args)
    from training import clustering  # after the flags, as these import for seconds
    from training.session import open_session

    with open_session(args, bound=True) as session:  # the model is a teacher: its classes count
        return clustering.run(session)


if __name__ == "__main__":
    sys.exit(cli(main))
