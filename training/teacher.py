"""The frozen teacher: what a mini-batch's terms need of it, and nothing beyond."""
import copy

import torch
import transformers

from training.batches import Outputs
from training.linear import quick_linears

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def first_layers(classifier, depth):
    """The encoder of a classifier, cut after `depth` layers: its last hidden state is the classifier's at `depth`.

    It shares the classifier's weights. In eval mode, without gradients.
    """
    config = copy.deepcopy(classifier.config)
    config.num_hidden_layers = depth
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and not kept
        encoder = transformers.AutoModel.from_config(config)
    lacking = encoder.load_state_dict(classifier.base_model.state_dict(), strict=False, assign=True).missing_keys
    lacking = [key for key in lacking if not key.startswith("pooler.")]  # what the pooler says is not used
    if lacking:
        raise RuntimeError(f"the first {depth} layers of {type(classifier).__name__} lack {lacking[0]}")
    return encoder.to(classifier.device).eval().requires_grad_(False)


class Teacher:
    """A frozen classifier, of which no layer above the last one that is needed is run, and never a gradient.

    The weights of its linear layers are kept in the precision that autocast would cast them to at every step.
    """

    def __init__(self, model, accelerator, compiled=False):
        self.model, self.accelerator, self.compiled, self.ready = model, accelerator, compiled, {}
        if dtype := HALF.get(accelerator.mixed_precision):
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(dtype)

    def runs(self, depth):
        """The model to run for the hidden states up to `depth`, or for the logits where that is None."""
        if depth not in self.ready:
            model = self.model if depth is None else first_layers(self.model, depth)
            self.ready[depth] = torch.compile(model) if self.compiled else quick_linears(model, self.accelerator)
        return self.ready[depth]

    def __call__(self, batch, layers=(), logits=True):
        """Outputs of a MiniBatch: the hidden states at `layers`, and the logits if asked for."""
        if not (logits or layers):
            return Outputs()
        with torch.no_grad(), self.accelerator.autocast():
            return batch.forward(self.runs(None if logits else max(layers)), layers)
