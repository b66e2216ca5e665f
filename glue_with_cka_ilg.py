"""FSD_ILG, all three structures; FSD_IL with --gamma_g 0: distil a teacher into a student on
a task.

    python glue_with_cka_ilg.py --model_type bert --model_name_or_path TEACHER \\
      --model_name_or_path_for_copy bert-base-uncased --copy_teacher --data_dir DATA_DIR \\
      --task_name RTE --do_lower_case --do_train --do_eval --per_gpu_train_batch_size 32 \\
      --learning_rate 5e-5 --num_train_epochs 3 --alpha 0.5 --temperature 5 --beta 1 \\
      --gamma_i 1 --gamma_l 1 --gamma_g 0.1 --gamma_m 1e-6 --teacher_memory_path MEMORY \\
      --output_dir OUTPUT_DIR

Total loss: α CE + (1-α) KD + β (γ_i I + γ_l L + γ_g G) (Eq. 3 and 11), on the penultimate
layers. A weight of 0 switches a structure off; without G no memory is needed.
"""

import sys

from common import cli
from training import checks, flags


def terms(args, memories=None):
    """{name: Term} of α CE + (1-α) KD + β (γ_i I + γ_l L + γ_g G).

    G = F_MM + γ_m F_E + (1-γ_m) F_C.
    """
    # here, so that flags are read without torch
    from terms import global_terms, intra_term, local_term, vkd_terms

    beta, estimator = args.beta, args.cka_estimator
    intra = intra_term(beta * args.gamma_i, estimator, args.intra_reduction)
    local = local_term(beta * args.gamma_l, estimator, args.sample_features)
    structures = {"intra": intra, "local": local}
    structures |= global_terms(beta * args.gamma_g, args.gamma_m, memories)
    return vkd_terms(args.alpha, args.temperature) | structures


def method(args):
    """The name in tables: FSD_ and the letters of the structures in use, VKD without any."""
    letters = "".join(letter for letter in "ilg" if args.beta * getattr(args, f"gamma_{letter}"))
    return f"FSD_{letters.upper()}" if letters else "VKD"


def make_parser():
    return flags.make_parser(
        __doc__, flags.STUDENT, flags.LOSS, flags.CKA, flags.FEATURES, flags.GAMMAS, flags.GLOBAL
    )


def main(argv=None, loop=None):
    """Run the command line. loop: see distill.run. Returns the exit code."""
    args = make_parser().parse_args(argv)
    checks.check_arguments(args)
    checks.check_forms(args, args.beta * args.gamma_i != 0, args.beta * args.gamma_l != 0)
    import distill  # after the flags, as it imports for seconds

    return distill.run(args, method(args), terms, checks.check_first_tokens, loop)


if __name__ == "__main__":
    sys.exit(cli(main))
