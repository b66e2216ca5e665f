"""The parts F_E and F_C of FSD_G's loss, each alone, by the function that the training calls."""

import torch

from cka import FrozenMemory, global_losses, memory_relations

PARTS = {"euclidean": "F_E", "cosine": "F_C"}


def feature_to_memory_loss(h_s, m_s, h_t, m_t, psi):
    """Eq. 9 for one ψ, "euclidean" or "cosine"; a scalar.

    h_s: (B, p_s). m_s: (C, p_s). h_t: (B, p_t). m_t: (C, p_t).
    """
    frozen, part = FrozenMemory(m_t), PARTS[psi]
    with torch.no_grad():
        relations_t = memory_relations(h_t, frozen)
    return global_losses(h_s, m_s, relations_t, frozen, parts=(part,))[part]
