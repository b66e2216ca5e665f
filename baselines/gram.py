"""The Frobenius distance of Gram matrices, one of two geometric rivals of CKA.

Bhattarai et al. 2025, arXiv 2509.25253, propose it for features of student and teacher. Here
features are centred and scaled to unit norm first, so that widths may differ, and the distance is
squared, so that it has a gradient at 0.
"""

import torch

from baselines.shared import between_rows, centred
from cka import FEWEST_TO_LEARN, gram_matrix
from precision import full_precision

METHOD = {
    "name": "Gram",
    "help": "Gram matrices of the penultimate features, Frobenius distance",
    "defaults": {"beta": 1.0, "between": "samples", "sample_features": "flat"},
    "flags": {
        "between": {
            "role": "variant",
            "type": "str",
            "choices": ("samples", "tokens"),
            "help": "Of gram and procrustes: rows are the samples of a mini-batch, or the tokens "
            "of a sample. Default samples.",
        },
    },
    "layerwise": True,
    "excluded": [{"sample_features": "first", "between": "tokens"}],
}


def standardised(x, mask=None):
    """x (..., n, p), centred over its unmasked rows and scaled to Frobenius norm 1; 0 if constant.

    Returns also a bool (...): True if x has no structure, as its rows are all alike, or fewer than
    3: two rows differ in one direction, whatever they are.
    """
    noise = 16 * torch.finfo(x.dtype).eps * torch.linalg.matrix_norm(x.detach())[..., None, None]
    x, n = centred(x, mask)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    constant = norm <= noise
    none = constant[..., 0, 0] | (n[..., 0, 0] < FEWEST_TO_LEARN["biased"])
    return torch.where(constant, 0, x / torch.where(constant, 1, norm)), none


def mean_of_defined(distances, undefined, count_undefined):
    """The mean of the distances (...) that are defined, 0 if none is; a scalar.

    undefined: (...) bool. With count_undefined returns also the number of undefined distances.
    """
    number = (~undefined).sum()
    loss = torch.where(undefined, 0, distances).sum() / number.clamp(min=1)
    return (loss, undefined.sum().to(loss.dtype)) if count_undefined else loss


@full_precision
def gram_distance(x_s, x_t, mask=None, count_undefined=False):
    """‖X_s X_sᵀ - X_t X_tᵀ‖² (Frobenius) of the centred features of unit norm, averaged
    over the leading dimensions.

    x_s: (..., n, D_s). x_t: (..., n, D_t), detached. mask: (..., n) bool, True for the rows that
    count. The distance is 0 only if X_s is a rotation of X_t, and at most 2. Features whose rows
    are all alike, or fewer than 3, are left out of the average. Returns a scalar; with
    count_undefined also how many were left out.
    """
    (x_s, none_s), (x_t, none_t) = standardised(x_s, mask), standardised(x_t.detach(), mask)
    distances = (gram_matrix(x_s) - gram_matrix(x_t)).square().sum((-2, -1))
    return mean_of_defined(distances, none_s | none_t, count_undefined)


def structure(args):
    """{name: Term} of β times the distance of the Gram matrices."""
    return {"gram": between_rows(args.beta, gram_distance, args)}
