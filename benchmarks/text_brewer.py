"""A training step of TextBrewer, to compare benchmarks/forms.py's VKD with.

TextBrewer is a published library that distils language models. This is its GeneralDistiller,
version 0.2.1.post1 of December 2020, which needs nothing that requirements.txt lacks. Its train()
cannot be stopped between two steps, so a step here is its own train_on_batch and write_loss and, in
the order of its train_with_num_steps, the division, backward, clipping, optimizer and zero_grad.

TextBrewer's own ways are kept: each step moves its batch to the device, without non_blocking;
labels go to the teacher too, which computes a loss that nobody reads; the teacher has no gradient
graph and is in eval mode; every step reads three losses back from the device, though there is no
TensorBoard. Its 'ce' is the cross-entropy between the two softened outputs without the factor
temperature², which our loss has, so the two losses have other values.
"""

import itertools
import tempfile

import torch

try:
    import textbrewer
except ImportError as missing:
    raise ImportError(
        "benchmarks/text_brewer.py needs TextBrewer: pip install textbrewer==0.2.1.post1"
    ) from missing


def adaptor(batch, outputs):
    """A model's outputs as the dict that TextBrewer expects."""
    return {"logits": outputs.logits, "losses": outputs.loss}


def distiller_of(student, teacher, device, bf16=False):
    """A GeneralDistiller for vanilla KD, student in training mode, teacher in eval mode.

    bf16: TextBrewer knows only apex's float16, so torch.autocast is put around its train_on_batch,
    which computes both forward passes and the losses; its train() would call the same.
    """
    distiller = textbrewer.GeneralDistiller(
        # it creates a missing output_dir; nothing is ever written to this one
        textbrewer.TrainingConfig(device=device, output_dir=tempfile.gettempdir()),
        textbrewer.DistillationConfig(
            temperature=5, hard_label_weight=0.5, kd_loss_type="ce", kd_loss_weight=0.5
        ),
        model_T=teacher,
        model_S=student,
        adaptor_T=adaptor,
        adaptor_S=adaptor,
    )
    if bf16:
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16)
        distiller.train_on_batch = autocast(distiller.train_on_batch)
    distiller.__enter__()  # the modes that `with distiller:` sets; they stay
    return distiller


def distiller_step(student, teacher, batches, device, bf16=False):
    """A function that takes a whole optimizer step of vanilla KD on the next of the batches.

    student, teacher: transformers' AutoModelForSequenceClassification, on the device.
    batches: an iterator of dicts of tensors, which are the models' arguments, labels among them.
    """
    distiller = distiller_of(student, teacher, device, bf16)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    numbers = itertools.count()

    def step():
        loss, parts = distiller.train_on_batch(next(batches), {})
        distiller.write_loss(loss, next(numbers), parts)
        loss /= distiller.t_config.gradient_accumulation_steps
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
