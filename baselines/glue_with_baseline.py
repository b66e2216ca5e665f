"""FSD's rivals under FSD's loop: distil a teacher into a student on a GLUE task with --method.

    python baselines/glue_with_baseline.py --method rkd --gamma_d 100 --gamma_a 200 --model_type bert \\
      --model_name_or_path TEACHER --model_name_or_path_for_copy bert-base-uncased --copy_teacher --data_dir DATA_DIR \\
      --task_name RTE --do_lower_case --do_train --do_eval --per_gpu_train_batch_size 32 --learning_rate 5e-5 \\
      --num_train_epochs 3 --alpha 0.5 --temperature 5 --output_dir OUTPUT_DIR

Total loss: α CE + (1-α) KD + β structure, with the structure of

    none        nothing: the cross-entropy alone; the teacher is only observed
    vkd         nothing
    pkd         the first token's features, after every L_t/L_s-th layer of the teacher but the last (β 100
                unless given)
    rkd         γ_d distances + γ_a angles between the samples of a mini-batch, from their penultimate features
    minilm      the last layer's attention distributions and value relations; with --relation_heads the self-relations
                of queries, keys and values, for teachers with other heads than the student's
    gram        Gram matrices of the penultimate features, Frobenius distance
    procrustes  the penultimate features themselves, up to a rotation
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from choices import SAMPLE_FEATURES
from common import UserError, cli
from training import flags

# ---- the methods ---------------------------------------------------------------------------------


class Method(NamedTuple):
    """A row of the table of methods: its name in results, and its flags with their defaults.

    Its structure is a row of STRUCTURES in baselines/structures.py, which imports torch.
    """

    name: str
    flags: dict


VKD = {"alpha": 0.5, "temperature": 5.0}
BETWEEN = {"beta": 1.0, "between": "samples", "sample_features": "flat"}
METHODS = {
    "none": Method("none", {}),
    "vkd": Method("VKD", VKD),
    "pkd": Method("PKD", VKD | {"beta": 100.0}),
    "rkd": Method(
        "RKD", VKD | {"beta": 1.0, "gamma_d": 100.0, "gamma_a": 200.0, "sample_features": "flat"}
    ),
    "minilm": Method("MiniLM", VKD | {"beta": 1.0, "relation_heads": None}),
    "gram": Method("Gram", VKD | BETWEEN),
    "procrustes": Method("Procrustes", VKD | BETWEEN),
}
LAYERWISE = ("rkd", "gram", "procrustes")
OWN_FLAGS = sorted({name for method in METHODS.values() for name in method.flags})


def terms(args, memories=None):
    """The method: α ce + (1-α) kd + its structure."""
    import terms as distill  # here, so that the flags are read without torch

    if args.method == "none":
        return {"ce": distill.vkd_terms(1.0, 1.0)["ce"]}
    from baselines.structures import STRUCTURES

    return distill.vkd_terms(args.alpha, args.temperature) | STRUCTURES[args.method](args)


def name_of(args):
    """The method's name in results; VKD where its structure weighs nothing."""
    weighs = args.method == "none" or any(
        term.weight for name, term in terms(args).items() if name not in ("ce", "kd")
    )
    return METHODS[args.method].name if weighs else "VKD"


def fill_flags(args):
    """Give the method's own flags their defaults; refuse those of other methods."""
    own = METHODS[args.method].flags
    for name in OWN_FLAGS:
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            raise UserError(
                f"--{name} means nothing to --method {args.method}, which takes "
                f"{', '.join(f'--{flag}' for flag in own) or 'no weight'}: leave it out"
            )
    if args.do_layerwise and args.method not in LAYERWISE:
        raise UserError(
            f"--do_layerwise means nothing to --method {args.method}, only to "
            f"{', '.join(LAYERWISE)}: leave it out"
        )
    if args.sample_features == "first" and args.between == "tokens":
        raise UserError(
            "--sample_features first and --between tokens exclude each other: pass one of them"
        )


def check(args, student, teacher):
    """Refuse models that the method cannot compare."""
    from training.attention import has_position_bias

    one, other = student.config, teacher.config
    if args.method == "pkd" and one.hidden_size != other.hidden_size:
        raise UserError(
            f"PKD compares features number by number, but the student is {one.hidden_size} wide "
            f"and the teacher {other.hidden_size}: take a student of the teacher's width, or "
            "another method"
        )
    flags.check_first_tokens(args, student, teacher)
    if "xlnet" in one.model_type and args.method == "pkd":
        raise UserError(
            "XLNet pads on the left and has no first token, which PKD compares: take another model "
            "or method"
        )
    if args.method != "minilm":
        return
    if args.compile:
        raise UserError(
            "--method minilm listens to the models' attention, which --compile would close: leave "
            "it out"
        )
    heads = args.relation_heads
    if heads and (one.hidden_size % heads or other.hidden_size % heads):
        raise UserError(
            f"--relation_heads must divide the widths of student and teacher, {one.hidden_size} "
            f"and {other.hidden_size}; got {heads}"
        )
    if not heads and one.num_attention_heads != other.num_attention_heads:
        raise UserError(
            f"the student has {one.num_attention_heads} attention heads and the teacher "
            f"{other.num_attention_heads}: pass --relation_heads, for MiniLM's second version"
        )
    if not heads and has_position_bias(teacher):
        raise UserError(
            f"the attention of {type(teacher).__name__} has a position bias beside queries and "
            "keys: pass --relation_heads, for MiniLM's second version, which does without "
            "attention distributions"
        )


def make_parser():
    parser = flags.Parser(__doc__)
    flags.shared_flags(parser)
    group = flags.distillation_flags(parser)
    add = group.add_argument
    add("--method", type=str.lower, choices=METHODS, required=True, help="See above.")
    add("--gamma_d", type=float, help="γ_d, weight of RKD's distances inside β. Default 100.")
    add("--gamma_a", type=float, help="γ_a, weight of RKD's angles inside β. Default 200.")
    add(
        "--relation_heads",
        type=int,
        help="MiniLM's second version, with so many heads. Default: the first version.",
    )
    add(
        "--between",
        choices=("samples", "tokens"),
        help="Of gram and procrustes: rows are the samples of a "
        "mini-batch, or the tokens of a sample. Default samples.",
    )
    add(
        "--sample_features",
        choices=SAMPLE_FEATURES,
        help="What stands for a sample: all its tokens, W*D numbers as "
        "in L, or its first token, D numbers. Default flat.",
    )
    parser.set_defaults(alpha=None, temperature=None, beta=None)  # known once the method is
    return parser


def main(argv=None, loop=None):
    """loop: see distill.run."""
    args = make_parser().parse_args(argv)
    fill_flags(args)
    flags.check_arguments(args)
    import distill  # after the flags, as it imports for seconds

    return distill.run(args, name_of(args), terms, check, loop)


if __name__ == "__main__":
    sys.exit(cli(main))
