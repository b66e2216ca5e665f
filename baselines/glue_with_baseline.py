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
import distill
from baselines import gram, minilm, pkd, procrustes, rkd
from training import flags, runs
from training.attention import has_position_bias
from training.batches import flat
from training.records import UserError, cli

# ---- the structures, each a dict of terms -------------------------------------------------------------------------


def patient(args):
    """β L_PT."""
    return {"patience": distill.Term(
        args.beta, lambda s, t, batch: pkd.patience_losses(s.features, t.features), "features")}


def samples(h, batch, args):
    """One row a sample: h (B, W, D) -> (B, W*D), or the first token's (B, D)."""
    return h[:, 0] if args.sample_features == "first" else flat(h, batch, args.max_seq_length, args.mask_padding)


def between_samples(weight, loss, args):
    """A Term of loss(x_s, x_t), averaged over the pairs of layers in use."""
    def term(s, t, batch):
        return distill.over_layers([
            loss(samples(h_s, batch, args), samples(h_t, batch, args), count_undefined=True)
            for h_s, h_t in zip(s.features, t.features, strict=True)])
    padding = args.sample_features == "flat" and not args.mask_padding
    return distill.Term(weight, term, "features", fewest=rkd.FEWEST, padding=padding)


def between_tokens(weight, loss, args):
    """A Term of loss(h_s, h_t, mask), averaged over the pairs of layers in use."""
    def term(s, t, batch):
        mask = batch["attention_mask"] if args.mask_padding else None
        return distill.over_layers([loss(h_s, h_t, mask, count_undefined=True)
                                    for h_s, h_t in zip(s.features, t.features, strict=True)], len(s.features[0]))
    return distill.Term(weight, term, "features", fewest_tokens=rkd.FEWEST,
                        padding=not args.mask_padding)


def relational(args):
    """β (γ_d RKD-D + γ_a RKD-A)."""
    return {"distance": between_samples(args.beta * args.gamma_d, rkd.distance_loss, args),
            "angle": between_samples(args.beta * args.gamma_a, rkd.angle_loss, args)}


def self_attention(args):
    """β (L_AT + L_VR), or β times the self-relations of the second version."""
    def loss(s, t, batch):
        mask = batch["attention_mask"]
        if args.relation_heads:
            return minilm.minilm_v2_loss(s.attention, t.attention, mask, args.relation_heads)
        return minilm.minilm_loss(s.attention, t.attention, mask)
    return {"attention": distill.Term(args.beta, loss, "attention")}


def geometric(name, loss):
    """β times a distance between feature matrices, whose rows are samples or the tokens of each sample."""
    def structure(args):
        between = between_tokens if args.between == "tokens" else between_samples
        return {name: between(args.beta, loss, args)}
    return structure


# ---- the methods --------------------------------------------------------------------------------------------------

class Method(NamedTuple):
    """A row of the table of methods: its name in results, its structure, and its flags with their defaults."""
    name: str
    structure: object
    flags: dict


VKD = {"alpha": 0.5, "temperature": 5.0}
BETWEEN = {"beta": 1.0, "between": "samples", "sample_features": "flat"}
METHODS = {
    "none": Method("none", None, {}),
    "vkd": Method("VKD", lambda args: {}, VKD),
    "pkd": Method("PKD", patient, VKD | {"beta": 100.0}),
    "rkd": Method("RKD", relational,
                  VKD | {"beta": 1.0, "gamma_d": 100.0, "gamma_a": 200.0, "sample_features": "flat"}),
    "minilm": Method("MiniLM", self_attention, VKD | {"beta": 1.0, "relation_heads": None}),
    "gram": Method("Gram", geometric("gram", gram.gram_distance), VKD | BETWEEN),
    "procrustes": Method("Procrustes", geometric("procrustes", procrustes.procrustes_distance), VKD | BETWEEN),
}
LAYERWISE = ("rkd", "gram", "procrustes")
OWN_FLAGS = sorted({name for method in METHODS.values() for name in method.flags})


def terms(args, memories=None):
    """The method: α ce + (1-α) kd + its structure."""
    if args.method == "none":
        return {"ce": distill.vkd_terms(1.0, 1.0)["ce"]}
    return distill.vkd_terms(args.alpha, args.temperature) | METHODS[args.method].structure(args)


def name_of(args):
    """The method's name in results; VKD where its structure weighs nothing."""
    weighs = args.method == "none" or any(term.weight for name, term in terms(args).items() if name not in ("ce", "kd"))
    return METHODS[args.method].name if weighs else "VKD"


def fill_flags(args):
    """Give the method's own flags their defaults; refuse those of other methods."""
    own = METHODS[args.method].flags
    for name in OWN_FLAGS:
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            raise UserError(f"--{name} means nothing to --method {args.method}, which takes "
                            f"{', '.join(f'--{flag}' for flag in own) or 'no weight'}: leave it out")
    if args.do_layerwise and args.method not in LAYERWISE:
        raise UserError(f"--do_layerwise means nothing to --method {args.method}, only to {', '.join(LAYERWISE)}: "
                        "leave it out")
    if args.sample_features == "first" and args.between == "tokens":
        raise UserError("--sample_features first and --between tokens exclude each other: pass one of them")


def check(args, student, teacher):
    """Refuse models that the method cannot compare."""
    one, other = student.config, teacher.config
    if args.method == "pkd" and one.hidden_size != other.hidden_size:
        raise UserError(f"PKD compares features number by number, but the student is {one.hidden_size} wide and the "
                        f"teacher {other.hidden_size}: take a student of the teacher's width, or another method")
    if "xlnet" in one.model_type and (args.method == "pkd" or args.sample_features == "first"):
        raise UserError("XLNet pads on the left and has no first token to compare: take another model, method, or "
                        "--sample_features flat")
    if args.method != "minilm":
        return
    if args.compile:
        raise UserError("--method minilm listens to the models' attention, which --compile would close: leave it out")
    heads = args.relation_heads
    if heads and (one.hidden_size % heads or other.hidden_size % heads):
        raise UserError(f"--relation_heads must divide the widths of student and teacher, {one.hidden_size} and "
                        f"{other.hidden_size}; got {heads}")
    if not heads and one.num_attention_heads != other.num_attention_heads:
        raise UserError(f"the student has {one.num_attention_heads} attention heads and the teacher "
                        f"{other.num_attention_heads}: pass --relation_heads, for MiniLM's second version")
    if not heads and has_position_bias(teacher):
        raise UserError(f"the attention of {type(teacher).__name__} has a position bias beside queries and keys: pass "
                        "--relation_heads, for MiniLM's second version, which does without attention distributions")


def make_parser():
    parser = flags.Parser(__doc__)
    flags.shared_flags(parser)
    group = flags.distillation_flags(parser)
    add = group.add_argument
    add("--method", type=str.lower, choices=METHODS, required=True, help="See above.")
    add("--gamma_d", type=float, help="γ_d, weight of RKD's distances inside β. Default 100.")
    add("--gamma_a", type=float, help="γ_a, weight of RKD's angles inside β. Default 200.")
    add("--relation_heads", type=int, help="MiniLM's second version, with so many heads. Default: the first version.")
    add("--between", choices=("samples", "tokens"), help="Of gram and procrustes: rows are the samples of a "
        "mini-batch, or the tokens of a sample. Default samples.")
    add("--sample_features", choices=("flat", "first"), help="What stands for a sample: all its tokens, W*D numbers as "
        "in L, or its first token, D numbers. Default flat.")
    parser.set_defaults(alpha=None, temperature=None, beta=None)  # known once the method is
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    fill_flags(args)
    return runs.run(args, name_of(args), terms, check)


if __name__ == "__main__":
    sys.exit(cli(main))
