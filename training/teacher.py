"""The frozen teacher: it computes what the terms need for a mini-batch, and nothing else."""

import torch

from training.batches import Outputs

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A frozen classifier, of which no gradient is ever computed.

    The weights of its linear layers are kept in the precision that autocast would cast them to at
    every step.
    """

    def __init__(self, model, accelerator):
        self.model, self.accelerator = model, accelerator
        if dtype := HALF.get(accelerator.mixed_precision):
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(dtype)

    def __call__(self, batch, layers=(), logits=True, attention=False):
        """The Outputs for a MiniBatch: hidden states at `layers`; logits and attention if
        wanted.
        """
        if not (logits or layers or attention):
            return Outputs()
        model = self.model if logits or attention else self.model.base_model
        with torch.no_grad(), self.accelerator.autocast():
            return batch.forward(model, layers, attention)
