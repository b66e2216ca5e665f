"""The Frobenius distance of Gram matrices, one of two geometric rivals of CKA.

Bhattarai et al. 2025, arXiv 2509.25253, propose it for features of student and teacher. Here features are centred and
scaled to unit norm first, so that widths may differ, and the distance is squared, so that it has a gradient at 0.
"""
import torch

from cka import centred, full_precision, gram_matrix


def standardised(x, mask=None):
    """x (..., n, p) centred over its unmasked rows and scaled to Frobenius norm 1; 0 where it is constant."""
    noise = 16 * torch.finfo(x.dtype).eps * torch.linalg.matrix_norm(x.detach())[..., None, None]
    x, _ = centred(x, mask)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return torch.where(norm > noise, x / torch.where(norm > noise, norm, 1), 0)


@full_precision
def gram_distance(x_s, x_t, mask=None):
    """‖X_s X_sᵀ - X_t X_tᵀ‖² (Frobenius) of the centred features of unit norm, averaged over the leading dimensions.

    x_s: (..., n, D_s). x_t: (..., n, D_t), detached. mask: (..., n) bool, True for the rows that count. It is 0 only if
    X_s is a rotation of X_t, and at most 2. Returns a scalar.
    """
    k_s, k_t = gram_matrix(standardised(x_s, mask)), gram_matrix(standardised(x_t.detach(), mask))
    return (k_s - k_t).square().sum((-2, -1)).mean()
