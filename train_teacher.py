"""Fine-tune a pretrained encoder on a task: the teacher, or the student without distillation.

    python train_teacher.py --model_type bert --model_name_or_path bert-base-uncased \\
      --data_dir DATA_DIR --task_name RTE --do_lower_case --do_train --do_eval \\
      --per_gpu_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 \\
      --output_dir OUTPUT_DIR

With --student_num_hidden_layers 6 only the first 6 layers are kept and trained, with
--student_layers 0,2,4,6,8,10 only these six.
"""

import sys

from common import cli
from training import checks, flags
from training.loss_flags import COPIED_LAYERS_ALONE


def terms(args, memories=None):
    """{name: Term} of the cross-entropy alone."""
    from terms import task_term  # here, so that flags are read without torch

    return {"ce": task_term()}


def make_parser():
    return flags.make_parser(__doc__, COPIED_LAYERS_ALONE)


def main(argv=None):
    args = make_parser().parse_args(argv)
    checks.check_arguments(args)
    import distill  # after the flags, as it imports for seconds

    method = "none" if args.student_num_hidden_layers or args.student_layers else "teacher"
    return distill.run(args, method, terms)


if __name__ == "__main__":
    sys.exit(cli(main))
