"""Global mini-batches: their order, the rows of each process, and the models' outputs gathered over processes."""
import inspect
import math
from typing import NamedTuple

import torch


class Outputs(NamedTuple):
    """What a model says of a mini-batch: logits (B, K); features, one (B, W, D) for each layer asked for."""
    logits: torch.Tensor
    features: tuple = ()


def windows(rows, batch_size, accumulation, seed, first_step, total_steps):
    """For each optimizer step from first_step on: (step, epoch, mini-batches), each mini-batch a tensor of indices.

    The order of an epoch depends on the seed and the epoch alone, so a resumed run needs no state to find its place.
    """
    batches = math.ceil(rows / batch_size)
    steps = math.ceil(batches / accumulation)
    for step in range(first_step, total_steps):
        epoch, place = divmod(step, steps)
        if place == 0 or step == first_step:
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(1000 * seed + epoch))
            epoch_batches = order.split(batch_size)
        yield step + 1, epoch + (place + 1) / steps, epoch_batches[place * accumulation:(place + 1) * accumulation]


class GatherRows(torch.autograd.Function):
    """(k, ...) of this process -> (processes, k, ...) of all.

    Every process computes the same loss from the gathered rows, and DistributedDataParallel averages the parameters'
    gradients; so a row's gradient, times the number of processes, is that of one process with the whole mini-batch.
    """

    @staticmethod
    def forward(ctx, x):
        world = torch.distributed.get_world_size()
        gathered = [torch.empty_like(x) for _ in range(world)]
        torch.distributed.all_gather(gathered, x.contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx, gradient):
        return gradient[torch.distributed.get_rank()] * torch.distributed.get_world_size()


class MiniBatch:
    """One global mini-batch: the rows that this process computes, and how all processes' outputs come together.

    features: name -> tensor (rows, ...) of the whole data set; indices: the mini-batch's rows, the same in every
    process (alone: this process's own, and nothing is gathered); trim: leave out the columns that are padding in every
    row. `targets` holds of the whole mini-batch: labels (B,), attention_mask (B, W') and, if columns were left out,
    `columns` (W',), which of the W these are.
    """

    def __init__(self, accelerator, features, indices, trim, alone=False):
        self.size, self.world = len(indices), 1 if alone else accelerator.num_processes
        mask = features["attention_mask"][indices].bool()
        used = mask.any(0).nonzero().squeeze(1) if trim else slice(None)
        mine = indices if alone else indices[accelerator.process_index::self.world]
        if len(mine) < math.ceil(self.size / self.world):  # at the end of an epoch: filled up, dropped by `gather`
            mine = torch.cat([mine, indices[:1]])
        rows = {key: value[mine][:, used].long() for key, value in features.items() if key != "labels"}
        targets = {"attention_mask": mask[:, used]} | ({"columns": used} if trim else {})
        if "labels" in features:
            targets["labels"] = features["labels"][indices]
        self.rows, self.targets = to_device(rows, accelerator.device), to_device(targets, accelerator.device)

    def gather(self, x):
        """(k, ...) rows of this process -> (B, ...) of the global mini-batch, in the order of its indices."""
        if self.world == 1:
            return x
        return GatherRows.apply(x).transpose(0, 1).flatten(0, 1)[:self.size]  # (P, k, ...) -> (k, P, ...) -> (B, ...)

    def inputs(self, model):
        """This process's rows as the arguments that the model's forward has; some have no token_type_ids."""
        accepted = inspect.signature(getattr(model, "module", model).forward).parameters
        return {key: value for key, value in self.rows.items() if key in accepted}

    def forward(self, model, layers=()):
        """The model's Outputs for the global mini-batch, with the hidden states at `layers`."""
        out = model(**self.inputs(model), output_hidden_states=bool(layers))
        return Outputs(self.gather(out.logits), tuple(self.gather(out.hidden_states[i]) for i in layers))


def flat(h, targets, length, mask_padding):
    """Features of samples as rows: (B, W', D) -> (B, W*D), W = length; with mask_padding, padded positions are 0."""
    if not mask_padding:
        return h.flatten(1)
    h = h * targets["attention_mask"].unsqueeze(-1)
    if "columns" in targets:
        h = h.new_zeros(h.shape[0], length, h.shape[2]).index_copy(1, targets["columns"], h)
    return h.flatten(1)


def to_device(tensors, device):
    """A dict of tensors on `device`, copied without waiting where that is a GPU."""
    if device.type == "cuda":
        tensors = {key: value.pin_memory() for key, value in tensors.items()}
    return {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
