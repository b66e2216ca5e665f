"""PKD, patient knowledge distillation.

Sun, Cheng, Gan, Liu, "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019, arXiv
1908.09355.
"""

import torch
import torch.nn.functional as F

from cka import full_precision


@full_precision
def patience_loss(h_s, h_t):
    """L_PT = Σ_i ‖h_s[i]/‖h_s[i]‖ - h_t[i]/‖h_t[i]‖‖² / (B·D), h[i] being the features of sample
    i's first token.

    h_s, h_t: (B, W, D), of one pair of layers and of one width; h_t detached. PKD-skip pairs the
    student's layers 1 ... L_s-1 with every L_t/L_s-th of the teacher and averages over them.
    Returns a scalar.
    """
    return F.mse_loss(
        F.normalize(h_s[:, 0], dim=-1), F.normalize(h_t[:, 0].detach(), dim=-1)
    )  # (B, D)


def patience_losses(features_s, features_t):
    """The mean of patience_loss over pairs of layers, two sequences of (B, W, D)."""
    return torch.stack(
        [patience_loss(*pair) for pair in zip(features_s, features_t, strict=True)]
    ).mean()
