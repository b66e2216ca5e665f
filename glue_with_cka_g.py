"""FSD_G: distil a teacher into a student on a task, with the global inter-feature structure.

    python glue_with_cka_g.py --model_type bert --model_name_or_path TEACHER \\
      --model_name_or_path_for_copy bert-base-uncased --copy_teacher --data_dir DATA_DIR \\
      --task_name RTE --do_lower_case --do_train --do_eval --per_gpu_train_batch_size 32 \\
      --learning_rate 5e-5 --num_train_epochs 3 --alpha 0.5 --temperature 5 --beta 0.5 \\
      --gamma_m 1e-6 --teacher_memory_path MEMORY --output_dir OUTPUT_DIR

Total loss: α CE + (1-α) KD + β G, with G = F_MM + γ_m F_E + (1-γ_m) F_C (Eq. 8-10) between the
samples' penultimate features and the centroids of two memories: the teacher's, which
train_memory.py made, and the student's, trained here.
"""

import sys

from common import cli
from training import checks, flags


def terms(args, memories):
    """{name: Term} of α CE + (1-α) KD + β (F_MM + γ_m F_E + (1-γ_m) F_C)."""
    from terms import global_terms, vkd_terms  # here, so that flags are read without torch

    structure = global_terms(args.beta, args.gamma_m, memories)
    return vkd_terms(args.alpha, args.temperature) | structure


def make_parser():
    return flags.make_parser(__doc__, flags.STUDENT, flags.LOSS, flags.CKA, flags.GLOBAL)


def main(argv=None, loop=None):
    """Run the command line. loop: see distill.run. Returns the exit code."""
    args = make_parser().parse_args(argv)
    checks.check_arguments(args)
    import distill  # after the flags, as it imports for seconds

    return distill.run(args, "FSD_G" if args.beta else "VKD", terms, loop=loop)


if __name__ == "__main__":
    sys.exit(cli(main))
