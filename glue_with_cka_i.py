"""FSD_I with --internal, FSD_L without it, VKD with --beta 0: distil a teacher into a student on
a task.

    python glue_with_cka_i.py --model_type bert --model_name_or_path TEACHER \\
      --model_name_or_path_for_copy bert-base-uncased --copy_teacher --data_dir DATA_DIR \\
      --task_name RTE --do_lower_case --do_train --do_eval --per_gpu_train_batch_size 32 \\
      --learning_rate 5e-5 --num_train_epochs 3 --alpha 0.5 --temperature 5 --beta 4 --internal \\
      --output_dir OUTPUT_DIR

Total loss: α CE + (1-α) KD + β I (Eq. 6), or + β L (Eq. 7) without --internal, on the
penultimate layers.
"""

import sys

from common import cli
from training import checks, flags


def terms(args, memories=None):
    """{name: Term} of α CE + (1-α) KD + β I, or + β L without --internal."""
    from terms import (  # here, so that flags are read without torch
        intra_term,
        local_term,
        vkd_terms,
    )

    if args.internal:
        structure = intra_term(args.beta, args.cka_estimator, args.intra_reduction)
    else:
        structure = local_term(args.beta, args.cka_estimator, args.sample_features)
    name = "intra" if args.internal else "local"
    return vkd_terms(args.alpha, args.temperature) | {name: structure}


def make_parser():
    return flags.make_parser(
        __doc__, flags.STUDENT, flags.LOSS, flags.CKA, flags.FEATURES, flags.INTERNAL
    )


def main(argv=None, loop=None):
    """Run the command line. loop: see distill.run. Returns the exit code."""
    args = make_parser().parse_args(argv)
    checks.check_arguments(args)
    has_structure = args.beta != 0
    checks.check_forms(args, has_structure and args.internal, has_structure and not args.internal)
    import distill  # after the flags, as it imports for seconds

    return distill.run(
        args,
        "VKD" if args.beta == 0 else "FSD_I" if args.internal else "FSD_L",
        terms,
        checks.check_first_tokens,
        loop,
    )


if __name__ == "__main__":
    sys.exit(cli(main))
