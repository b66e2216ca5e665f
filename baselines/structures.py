"""The structures of FSD's rivals, each a function of a run's flags that returns a dict of terms."""

import terms as distill
from baselines import gram, minilm, pkd, procrustes, rkd
from training.batches import first_tokens, flat


def patient(args):
    """β L_PT."""

    def loss(s, t, batch):
        first_s, first_t = (
            [first_tokens(h, batch).unsqueeze(1) for h in side.features]  # (B, 1, D) each
            for side in (s, t)
        )
        return pkd.patience_losses(first_s, first_t)

    return {"patience": distill.Term(args.beta, loss, "features")}


def samples(h, batch, args):
    """One row a sample: h (B, W, D) -> (B, W*D), or the first token's (B, D)."""
    if args.sample_features == "first":
        return first_tokens(h, batch)
    return flat(h, batch, args.max_seq_length, args.mask_padding)


def between_samples(weight, loss, args):
    """A Term of loss(x_s, x_t), averaged over the pairs of layers in use."""

    def term(s, t, batch):
        return distill.over_layers(
            [
                loss(samples(h_s, batch, args), samples(h_t, batch, args), count_undefined=True)
                for h_s, h_t in zip(s.features, t.features, strict=True)
            ]
        )

    padding = args.sample_features == "flat" and not args.mask_padding
    return distill.Term(weight, term, "features", fewest=rkd.FEWEST, padding=padding)


def between_tokens(weight, loss, args):
    """A Term of loss(h_s, h_t, mask), averaged over the pairs of layers in use."""

    def term(s, t, batch):
        mask = batch["attention_mask"] if args.mask_padding else None
        return distill.over_layers(
            [
                loss(h_s, h_t, mask, count_undefined=True)
                for h_s, h_t in zip(s.features, t.features, strict=True)
            ],
            len(s.features[0]),
        )

    return distill.Term(
        weight, term, "features", fewest_tokens=rkd.FEWEST, padding=not args.mask_padding
    )


def relational(args):
    """β (γ_d RKD-D + γ_a RKD-A)."""
    return {
        "distance": between_samples(args.beta * args.gamma_d, rkd.distance_loss, args),
        "angle": between_samples(args.beta * args.gamma_a, rkd.angle_loss, args),
    }


def self_attention(args):
    """β (L_AT + L_VR), or β times the self-relations of the second version."""

    def loss(s, t, batch):
        mask = batch["attention_mask"]
        if args.relation_heads:
            return minilm.minilm_v2_loss(s.attention, t.attention, mask, args.relation_heads)
        return minilm.minilm_loss(s.attention, t.attention, mask)

    return {"attention": distill.Term(args.beta, loss, "attention")}


def geometric(name, loss):
    """β times a distance between feature matrices, whose rows are samples or the tokens of each
    sample.
    """

    def structure(args):
        between = between_tokens if args.between == "tokens" else between_samples
        return {name: between(args.beta, loss, args)}

    return structure


STRUCTURES = {  # --method -> structure; "none" has none, and no KD either
    "vkd": lambda args: {},
    "pkd": patient,
    "rkd": relational,
    "minilm": self_attention,
    "gram": geometric("gram", gram.gram_distance),
    "procrustes": geometric("procrustes", procrustes.procrustes_distance),
}
