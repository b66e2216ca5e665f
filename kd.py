"""The losses beside the structures: the task's own, and vanilla KD (Eq. 1-2)."""

import torch
import torch.nn.functional as F


def task_loss(logits, labels):
    """The cross-entropy, or the mean squared error where the task is a regression.

    logits: (B, K), K = 1 for a regression. labels: (B,). Returns a scalar.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels)
    return F.cross_entropy(logits, labels)


def kd_loss(z_s, z_t, temperature):
    """τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)), the mean over the batch (Eq. 2; τ² as released).

    STS-B has one logit, for which that KL is 0 whatever the student says: there it is the mean
    squared error between the two logits, without τ. z_s, z_t: (B, K), z_t detached. Returns a
    scalar.
    """
    z_s, z_t = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z_s, z_t.detach()))
    if z_s.shape[-1] == 1:
        return F.mse_loss(z_s, z_t)
    log_p_s = F.log_softmax(z_s / temperature, -1)
    log_p_t = F.log_softmax(z_t / temperature, -1)
    return temperature**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)
