"""The losses beside the structures: the task's own, and vanilla KD (cka.py's paper, Eq. 1-2)."""

import torch
import torch.nn.functional as F


def task_loss(logits, labels, labelled=None):
    """The cross-entropy, or the mean squared error if the task is a regression.

    logits: (B, K), K = 1 for a regression. labels: (B,). labelled: (B,) bool, True for rows that
    have a label; None if all have one. Returns a scalar, the mean over these rows, 0 without any.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    regression = logits.shape[-1] == 1
    if regression:
        logits = logits.squeeze(-1)
    loss = F.mse_loss if regression else F.cross_entropy
    if labelled is None:
        return loss(logits, labels)
    found = loss(logits, labels.masked_fill(~labelled, 0), reduction="none")
    return (found * labelled).sum() / labelled.sum().clamp(min=1)


def kd_loss(z_s, z_t, temperature):
    """τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)), the mean over the batch; temperature: τ.

    Eq. 2, with the factor τ² of the authors' released code. A regression has one logit, for which
    this KL is always 0: there the loss is the mean squared error of the two logits, without τ.
    z_s, z_t: (B, K), z_t detached. Returns a scalar.
    """
    z_s, z_t = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z_s, z_t.detach()))
    if z_s.shape[-1] == 1:
        return F.mse_loss(z_s, z_t)
    log_p_s = F.log_softmax(z_s / temperature, -1)
    log_p_t = F.log_softmax(z_t / temperature, -1)
    return temperature**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)
