"""on_device.py CHECK DEVICE: check our computations on a device, in a process of its own, for
tests/test_gpu.py. The checks:

losses    every loss and its gradients, float32 on the device against float64 on the CPU
kmeans    k-means in float32 on the device against float64 on the CPU; two runs have the same bits
waits     a step of every method, plain, cached and masked, makes no call that waits for the GPU
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from parts_of_g import feature_to_memory_loss  # noqa: E402

import cka  # noqa: E402
import kd  # noqa: E402
import memory  # noqa: E402
import relations  # noqa: E402
from baselines import gram, minilm, pkd, procrustes, rkd  # noqa: E402

B, W, D_S, D_T, C, HEADS = 8, 12, 16, 24, 5, 2


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def cases():
    """{name: (loss, trained, fixed)}: loss(*trained, *fixed) is a scalar, and the tensors in the
    list `trained` get gradients.
    """
    h_s, h_t, narrow_t = draw(B, W, D_S), draw(B, W, D_T), draw(B, W, D_S)
    m_s, m_t = draw(C, W * D_S), draw(C, W * D_T)
    mask = torch.arange(W) < torch.arange(5, 5 + B).unsqueeze(1)  # (B, W)
    attention_s, attention_t = (
        [draw(B, HEADS, W, width // HEADS) for _ in range(3)] for width in (D_S, D_T)
    )
    logits_s, logits_t, labels = draw(B, 3), draw(B, 3), torch.arange(B) % 3

    def of_structures(estimator):
        return {
            f"I, {estimator}": (
                lambda s, t: cka.intra_feature_loss(s, t, estimator=estimator),
                [h_s],
                [h_t],
            ),
            f"I, {estimator}, masked": (
                lambda s, t, mask: cka.intra_feature_loss(s, t, mask, estimator),
                [h_s],
                [h_t, mask],
            ),
            f"I, {estimator}, to a structure": (
                lambda s, t: cka.intra_feature_loss(
                    s, cka.token_structure(t, estimator=estimator), estimator=estimator
                ),
                [h_s],
                [h_t],
            ),
            f"L, {estimator}": (
                lambda s, t: cka.local_inter_feature_loss(s, t, estimator=estimator),
                [h_s],
                [h_t],
            ),
            f"L, {estimator}, masked": (
                lambda s, t, mask: cka.local_inter_feature_loss(s, t, mask, estimator),
                [h_s],
                [h_t, mask],
            ),
            f"F_MM, {estimator}": (
                lambda s, t: cka.memory_structure_loss(s, t, estimator),
                [m_s],
                [m_t],
            ),
        }

    rows_s, rows_t = h_s.flatten(1), h_t.flatten(1)  # (B, W, D) -> (B, W*D)
    return (
        of_structures("biased")
        | of_structures("debiased")
        | {
            "I, log_mean": (
                lambda s, t: cka.intra_feature_loss(s, t, reduction="log_mean"),
                [h_s],
                [h_t],
            ),
            **{
                f"F, {psi}": (
                    lambda h, m, x, y, psi=psi: feature_to_memory_loss(h, m, x, y, psi),
                    [rows_s, m_s],
                    [rows_t, m_t],
                )
                for psi in relations.PSI
            },
            "G": (
                lambda h, m, x, y: cka.global_inter_feature_loss(h, m, x, y, 0.01),
                [rows_s, m_s],
                [rows_t, m_t],
            ),
            "CE": (kd.task_loss, [logits_s], [labels]),
            "KD": (lambda s, t: kd.kd_loss(s, t, 5.0), [logits_s], [logits_t]),
            "PKD": (pkd.patience_loss, [h_s], [narrow_t]),
            "RKD, distances": (rkd.distance_loss, [rows_s], [rows_t]),
            "RKD, angles": (rkd.angle_loss, [rows_s], [rows_t]),
            "MiniLM": (
                lambda *x: minilm.minilm_loss(x[:3], x[3:6], x[6]),
                attention_s,
                [*attention_t, mask],
            ),
            "MiniLM, second version": (
                lambda *x: minilm.minilm_v2_loss(x[:3], x[3:6], x[6], 4),
                attention_s,
                [*attention_t, mask],
            ),
            "Gram": (gram.gram_distance, [rows_s], [rows_t]),
            "Gram, masked": (gram.gram_distance, [h_s], [h_t, mask]),
            "Procrustes": (procrustes.procrustes_distance, [rows_s], [rows_t]),
            "Procrustes, masked": (procrustes.procrustes_distance, [h_s], [h_t, mask]),
            **{
                f"RD, {psi}": (
                    lambda s, t, psi=psi: relations.relation_difference(s, t, psi),
                    [h_s],
                    [h_t],
                )
                for psi in relations.PSI
            },
        }
    )


def losses(device):
    def evaluate(loss, trained, fixed, place, dtype):
        def there(x):
            return x.to(place, dtype if x.is_floating_point() else x.dtype)

        trained = [there(x).requires_grad_() for x in trained]
        value = loss(*trained, *map(there, fixed))
        return [x.cpu().double() for x in (value, *torch.autograd.grad(value, trained))]

    for name, case in cases().items():
        wanted = evaluate(*case, "cpu", torch.float64)
        found = evaluate(*case, device, torch.float32)
        for what, x, y in zip(
            ("value", "gradient", "gradient", "gradient"), found, wanted, strict=False
        ):
            message = f"{name}, {what}: {{}}".format
            torch.testing.assert_close(
                x, y, rtol=1e-3, atol=1e-5 + 1e-4 * y.abs().max().item(), msg=message
            )
    print(f"{len(cases())} losses are right on {device}")


def kmeans(device):
    centres = 4 * draw(C, 30)
    rows = centres[torch.arange(200) % C] + draw(200, 30)

    def run(x, place):
        found = memory.KMeans(rows[:C].to(x), len(x)).to(place)
        if x.dtype == torch.float64:
            found.double()
        for _ in range(3):
            for indices in torch.arange(len(x)).split(32):
                found.add(x[indices].to(place), indices)
            last = found.update()
        return found.centroids.cpu(), last

    wanted, last = run(rows, "cpu")
    (found, same), (again, _) = (run(rows.float(), device) for _ in range(2))
    assert torch.equal(found, again), "two clusterings differ in their bits"
    assert torch.equal(same["assignment"], last["assignment"]), "samples are in other clusters"
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-4)
    print(f"k-means is right on {device}")


def waits(device):
    import accelerate
    import forms

    from training import models

    models.mask_without_waiting()
    args = SimpleNamespace(
        models=["tiny"],
        per_gpu_train_batch_size=8,
        max_seq_length=24,
        unpinned=False,
        dataloader_num_workers=0,
    )
    rows, tried = forms.draw_rows(8, 24), 0
    for name in forms.FORMS:
        if "Procrustes" in name or ":" in name or name in ("published", "teacher, forward"):
            continue  # torch.linalg's singular values wait; the others are not our training steps
        accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=device == "cpu")
        step = forms.FORMS[name].make(args, rows, [torch.arange(8)], accelerator).take
        for _ in range(2):
            step()
        try:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            step()
        except RuntimeError as error:
            sys.exit(f"{name} waits for the GPU: {error}")
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        tried += 1
    print(f"{tried} forms of a step do not wait")


if __name__ == "__main__":
    torch.manual_seed(0)
    {"losses": losses, "kmeans": kmeans, "waits": waits}[sys.argv[1]](sys.argv[2])
