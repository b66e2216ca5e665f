"""The frozen teacher: what a mini-batch's terms need of it, and nothing beyond."""

import copy

import torch
import transformers

from training.batches import Outputs
from training.linear import quick_linears
from training.models import cut_layers, minds_lengths

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def first_layers(classifier, depth):
    """The encoder of a classifier, cut after `depth` layers, with the classifier's own weights, in
    eval mode, frozen.

    RuntimeError where the family cannot be cut so.
    """
    config = copy.deepcopy(classifier.config)
    cut_layers(config, range(depth)).dtype = torch.float32
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and not kept
        encoder = transformers.AutoModel.from_config(config)
    lacking = encoder.load_state_dict(
        classifier.base_model.state_dict(), strict=False, assign=True
    ).missing_keys
    lacking = [
        key for key in lacking if not key.startswith("pooler.")
    ]  # what the pooler says is not used
    if lacking:
        raise RuntimeError(
            f"the first {depth} layers of {type(classifier).__name__} lack {lacking[0]}"
        )
    return encoder.to(classifier.device).eval().requires_grad_(False)


class Teacher:
    """A frozen classifier, of which no layer above the last one that is needed is run, and never a
    gradient.

    The weights of its linear layers are kept in the precision that autocast would cast them to at
    every step.
    """

    def __init__(self, model, accelerator, compiled=False):
        self.model, self.accelerator, self.compiled, self.ready = model, accelerator, compiled, {}
        if dtype := HALF.get(accelerator.mixed_precision):
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(dtype)

    def runs(self, depth):
        """The model to run for the hidden states up to `depth`, or for the logits where that is
        None.
        """
        if depth not in self.ready:
            model = self.model if depth is None else self.cut(depth)
            self.ready[depth] = (
                torch.compile(model) if self.compiled else quick_linears(model, self.accelerator)
            )
        return self.ready[depth]

    def cut(self, depth):
        """The first layers, or the whole encoder where those would say something else, as before a
        last norm.
        """
        if minds_lengths(self.model.config):
            return self.model.base_model
        tokens = torch.arange(8, device=self.model.device).view(2, 4) + 4
        try:
            encoder = first_layers(self.model, depth)
            with torch.no_grad(), self.accelerator.autocast():
                wanted = self.model(tokens, output_hidden_states=True).hidden_states[depth]
                found = encoder(tokens, output_hidden_states=True).hidden_states[depth]
        except (RuntimeError, IndexError):  # another shape inside; no layer at all
            return self.model.base_model
        return (
            encoder
            if torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)
            else self.model.base_model
        )

    def __call__(self, batch, layers=(), logits=True, attention=False):
        """Outputs of a MiniBatch: the hidden states at `layers`, and logits and attention if asked
        for.
        """
        if not (logits or layers or attention):
            return Outputs()
        with torch.no_grad(), self.accelerator.autocast():
            return batch.forward(
                self.runs(None if logits or attention else max(layers)), layers, attention
            )
