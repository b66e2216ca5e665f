"""PKD, patient knowledge distillation.

Sun, Cheng, Gan, Liu, "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019, arXiv
1908.09355.
"""

import torch
import torch.nn.functional as F

from baselines.shared import Term
from common import UserError
from precision import full_precision
from training.batches import first_tokens

METHOD = {
    "name": "PKD",
    "help": "the first token's features, after every L_t/L_s-th layer of the teacher but the last "
    "(β 100 unless given)",
    "defaults": {"beta": 100.0},
    "layers": "every",
}


@full_precision
def patience_loss(h_s, h_t):
    """L_PT = Σ_i ‖h_s[i]/‖h_s[i]‖ - h_t[i]/‖h_t[i]‖‖² / (B·D).

    h[i] are the features of sample i's first token.

    h_s, h_t: (B, W, D), of one pair of layers and of one width; h_t detached. PKD-skip pairs the
    student's layers 1 ... L_s-1 with every L_t/L_s-th layer of the teacher and averages over the
    pairs. Returns a scalar.
    """
    return F.mse_loss(
        F.normalize(h_s[:, 0], dim=-1), F.normalize(h_t[:, 0].detach(), dim=-1)
    )  # (B, D)


def patience_losses(features_s, features_t):
    """The mean of patience_loss over pairs of layers, of two sequences of (B, W, D)."""
    return torch.stack(
        [patience_loss(*pair) for pair in zip(features_s, features_t, strict=True)]
    ).mean()


def structure(args):
    """{name: Term} of β L_PT."""

    def loss(s, t, targets):
        first_s, first_t = (
            [first_tokens(h, targets).unsqueeze(1) for h in side.features]  # (B, 1, D) each
            for side in (s, t)
        )
        return patience_losses(first_s, first_t)

    return {"patience": Term(args.beta, loss, "features")}


def check(args, student, teacher):
    """Refuse a student whose width is not the teacher's, and XLNet, which has no first token."""
    width_s, width_t = student.config.hidden_size, teacher.config.hidden_size
    if width_s != width_t:
        raise UserError(
            f"PKD needs a student and a teacher of one width (hidden_size), found {width_s} and "
            f"{width_t}: take a student of the teacher's width, or another method"
        )
    if "xlnet" in student.config.model_type:
        raise UserError(
            "XLNet pads on the left and has no first token, which PKD compares: take another model "
            "or method"
        )
