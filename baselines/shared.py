"""What the rivals share: terms that compare rows of features, averaged over the pairs of layers in
use. Rows are the samples of a mini-batch, or the tokens of a sample.
"""

from terms import Counted, Term, over_layers  # noqa: F401 - Counted, Term: for the rivals
from training.batches import first_tokens, flat, for_teacher

FEWEST = 3  # rows; two have one distance, which is their mean, and no angle


def samples(h, targets, args):
    """One row a sample: h (B, W, D) -> (B, W*D), or (B, D) of its first token."""
    if args.sample_features == "first":
        return first_tokens(h, targets)
    return flat(h, targets)


def between_samples(weight, loss, args):
    """A Term of loss(x_s, x_t, count_undefined=True) between samples, as rows of `samples`.

    The loss returns a scalar and how many of its values were undefined, a tensor; see cka.defined.
    The Term needs FEWEST samples, and takes models that read other tokens (aligned=False): both are
    wrong of a loss that compares a sample with itself.
    """

    def term(s, t, targets):
        return over_layers(
            [
                loss(
                    samples(h_s, targets, args),
                    samples(h_t, for_teacher(targets), args),
                    count_undefined=True,
                )
                for h_s, h_t in zip(s.features, t.features, strict=True)
            ]
        )

    padding = args.sample_features != "first"
    return Term(weight, term, "features", fewest=FEWEST, padding=padding, aligned=False)


def between_tokens(weight, loss, args):
    """A Term of loss(h_s, h_t, mask, count_undefined=True), h_s and h_t being (B, W, D).

    The loss returns a scalar and how many of its B values were undefined, a tensor.
    """

    def term(s, t, targets):
        mask = targets.get("mask")
        return over_layers(
            [
                loss(h_s, h_t, mask, count_undefined=True)
                for h_s, h_t in zip(s.features, t.features, strict=True)
            ],
            len(s.features[0]),
        )

    return Term(weight, term, "features", fewest_tokens=FEWEST, padding=True)


def between_rows(weight, loss, args):
    """A Term of a loss between rows; --between chooses samples or tokens as rows."""
    between = between_tokens if args.between == "tokens" else between_samples
    return between(weight, loss, args)


def centred(x, mask=None):
    """x (..., n, p) minus the mean of its unmasked rows; masked rows are 0.

    mask: (..., n) bool, True for the rows that count. Returns also their number, (..., 1, 1).
    """
    if mask is None:
        return x - x.mean(-2, keepdim=True), x.new_full((1, 1), x.shape[-2])
    keep = mask.unsqueeze(-1).to(x.dtype)  # (..., n) -> (..., n, 1)
    n = keep.sum(-2, keepdim=True)
    mean = (x * keep).sum(-2, keepdim=True) / n.clamp(min=1)
    return (x - mean) * keep, n
