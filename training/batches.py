"""Global mini-batches: their order, the rows of each process, and the models' outputs gathered.

A global mini-batch is the B rows that all P processes take together; each process runs the models
on k of them. The columns of a mini-batch are its token positions: W, or W' once columns of padding
are cut off at both ends. D is the width of the features, K the number of logits.
"""

import contextlib
import inspect
import math
import signal
from typing import NamedTuple

import accelerate
import torch

from seeds import mix
from tasks.features import NO_CLASS
from training.attention import heard
from training.unpadding import without_padding

# --group_by_length sorts the rows of this many consecutive mini-batches by length
SORTED = 16
NO_INPUTS = ("labels", "labelled", "mask")  # the tensors of a row that no model reads


class Outputs(NamedTuple):
    """A model's outputs for a mini-batch: logits (B, K); features, one (B, W, D) for each layer
    asked for; attention, the last layer's queries, keys and values, (B, A, W, d) each, for A heads.

    A teacher cache may hold, in place of the features, what the structures compute from them:
    tokens, one cka.token_structure (B, W, W) per layer, and relations, what cka.memory_relations
    returns for the teacher's memory.
    """

    logits: torch.Tensor | None = None
    features: tuple = ()
    tokens: tuple = ()
    relations: dict | None = None
    attention: tuple = ()


def epoch_order(rows, batch_size, seed, epoch, lengths=None):
    """The mini-batches of an epoch in random order: a tuple of index tensors, (batch_size,) each;
    one may have fewer.

    lengths: (rows,), tokens of each row, to group rows by length; or None. Then the rows of every
    SORTED consecutive mini-batches of the random order are sorted by length and split anew, and the
    order of the resulting mini-batches is random again.
    """
    own = (
        1000 * seed + epoch
    )  # as published; from epoch 1000 on, another seed's orders would follow
    if epoch >= 1000 or own >= 2**32:
        own = mix(seed, "epoch", epoch)
    generator = torch.Generator().manual_seed(own)
    order = torch.randperm(rows, generator=generator)
    if lengths is None:
        return order.split(batch_size)
    runs = order.split(SORTED * batch_size)
    batches = torch.cat([run[lengths[run].argsort(stable=True)] for run in runs]).split(batch_size)
    return tuple(batches[i] for i in torch.randperm(len(batches), generator=generator))


def windows(rows, batch_size, accumulation, seed, first_step, total_steps, lengths=None):
    """Yields, for each optimizer step after the first `first_step`, (step, epoch, mini-batches).

    step counts from 1; epoch is the number of epochs done after the step, a fraction; mini-batches
    is a tuple of `accumulation` index tensors, fewer at the end of an epoch. The order within an
    epoch depends only on the seed and the epoch, so a resumed run needs no state to find its place.
    """
    steps = math.ceil(math.ceil(rows / batch_size) / accumulation)
    for step in range(first_step, total_steps):
        epoch, place = divmod(step, steps)
        if place == 0 or step == first_step:
            batches = epoch_order(rows, batch_size, seed, epoch, lengths)
        yield (
            step + 1,
            epoch + (place + 1) / steps,
            batches[place * accumulation : (place + 1) * accumulation],
        )


def with_mask(features, args):
    """The rows of a data set, name -> tensor (N, W), with the `mask` for structures if
    --mask_padding is set.

    Terms, memory and cache do not read the flag: they only look for `mask` in a mini-batch.
    """
    if not getattr(args, "mask_padding", False):
        return features
    return features | {"mask": features["attention_mask"]}


def with_labelled(features):
    """The rows of a data set, name -> tensor; if some have no label, with `labelled` (N,), True for
    those that have one.
    """
    if "labels" not in features:
        return features
    labels = features["labels"]
    labelled = ~labels.isnan() if labels.is_floating_point() else labels != NO_CLASS
    return features if labelled.all() else features | {"labelled": labelled}


class Rows(torch.utils.data.Dataset):
    """A data set whose items are mini-batches, rows[indices] -> dict, so that a loader's workers
    can prepare them.

    features: name -> tensor (rows, ...). rank, world: this process, of so many; it computes every
    world-th row of a global mini-batch, from row `rank` on. cut: leave out the columns before the
    first and after the last that has a token in any row of the mini-batch. cache: a TeacherCache to
    read as well. beside: the Rows of the same samples as the teacher reads them, if it has another
    tokenizer or length than the student; the cache then belongs to `beside`.
    """

    def __init__(self, features, cut=False, rank=0, world=1, cache=None, beside=None):
        self.features, self.cut, self.cache, self.beside = features, cut, cache, beside
        self.rank, self.world = rank, world

    def __getitem__(self, indices):
        """The item of a global mini-batch, a dict. indices: (B,).

        "inputs": the rows of this process alone, (k, W') each.
        "targets": for the whole mini-batch, labels (B,); labelled (B,), if some rows of the data
        set have no label; attention_mask (B, W'), and the same again as mask if structures leave
        padding out; columns (W',), if columns may be cut off: which of the W are kept.
        "teacher": what the cache holds for the whole mini-batch; {} without a cache.
        "length": W. "beside": the item of the teacher's Rows, if the teacher reads the rows in
        another way.
        """
        # from all processes' rows, so that all compute the same columns, to be gathered
        mask = self.features["attention_mask"][indices].bool()
        columns = span(mask) if self.cut else slice(None)
        mine = indices[self.rank :: self.world]
        if len(mine) < math.ceil(len(indices) / self.world):
            # the last mini-batch may lack a row here: another fills in, and `gather` drops it
            mine = torch.cat([mine, indices[:1]])
        inputs = {
            key: value[mine][:, columns].long()
            for key, value in self.features.items()
            if key not in NO_INPUTS
        }
        targets = {"attention_mask": mask[:, columns]}
        if "mask" in self.features:
            targets["mask"] = targets["attention_mask"]
        if self.cut:
            targets["columns"] = torch.arange(columns.start, columns.stop)
        for name in {"labels", "labelled"} & self.features.keys():
            targets[name] = self.features[name][indices]
        item = {"indices": indices, "inputs": inputs, "targets": targets}
        item["teacher"] = self.cache.read(indices, columns) if self.cache else {}
        item["length"] = self.features["attention_mask"].shape[1]
        if self.beside is not None:
            item["beside"] = self.beside[indices]
        return item


def make_rows(features, read_by_teacher, cut, rank, world, cache):
    """The student's Rows for a training; the teacher's are `beside` it if it reads in another way.

    features: the data set as the student reads it, name -> tensor. read_by_teacher: the same as the
    teacher reads it, None if both read alike.
    """
    if read_by_teacher is None:
        return Rows(features, cut, rank, world, cache)
    beside = Rows(read_by_teacher, cut, rank, world, cache)
    return Rows(features, cut, rank, world, beside=beside)


class Windows(torch.utils.data.Dataset):
    """A data set of windows, taken from Rows: all the mini-batches of one optimizer step each."""

    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, planned):
        """planned: (step, epoch, mini-batches of indices), as `windows` yields. Returns it with an
        item of Rows in place of each mini-batch's indices.
        """
        step, epoch, batches = planned
        return step, epoch, [self.rows[indices] for indices in batches]


def load(dataset, places, workers, pin_memory):
    """A loader of dataset[place] for each place in turn, prepared ahead by `workers` processes."""
    # its own generator: the loader draws a seed, which would shift the training's random numbers
    generator = torch.Generator()
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=None,  # an item is a mini-batch, or a window of them, already
        sampler=places,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=generator,
        worker_init_fn=outlive_saving,
    )


def span(mask):
    """The slice of columns from the first to the last with a token in any row; all columns if none
    has one. mask: (B, W) bool, False at padding.
    """
    real = mask.any(0).nonzero()
    return slice(int(real[0]), int(real[-1]) + 1) if len(real) else slice(0, mask.shape[1])


def outlive_saving(worker):
    """Let a loader's worker live for 30 s after SIGTERM, which reaches all processes of a run: its
    parent saves in that time.
    """
    # a worker ends before that, when the loader is closed
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


class GatherRows(torch.autograd.Function):
    """(k, ...) of this process -> (P, k, ...) of all P processes.

    Every process computes the same loss from the gathered rows, but only the gradient of its own
    rows. DistributedDataParallel then takes the mean over the P processes; so a row's gradient is
    multiplied by P here, and the result is the sum over all rows, as in one process except for
    rounding and dropout.
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
    """One global mini-batch on the device: an item of Rows, and the gathering of all processes'
    outputs.

    world: the number of processes that its rows are spread over. of_teacher: the MiniBatch of the
    same rows as the teacher reads them, whose targets are also this one's targets["teacher"]; this
    MiniBatch itself if both models read alike.
    """

    def __init__(self, item, device, world=1):
        self.indices, self.size, self.world = item["indices"], len(item["indices"]), world
        self.inputs, self.targets, self.teacher = (
            {key: value.to(device, non_blocking=True) for key, value in item[part].items()}
            for part in ("inputs", "targets", "teacher")
        )
        self.targets["length"] = item.get("length")
        self.of_teacher = self
        if "beside" in item:
            self.of_teacher = MiniBatch(item["beside"], device, world)
            self.targets["teacher"] = self.of_teacher.targets

    def gather(self, x):
        """(k, ...) rows of this process -> (B, ...) of the mini-batch, in the order of its indices.

        All processes must call it for the same outputs in the same order.
        """
        if self.world == 1:
            return x
        rows = GatherRows.apply(x).transpose(0, 1).flatten(0, 1)  # (P, k, ...) -> (k*P, ...)
        return rows[: self.size]  # drops the rows that filled in, so their gradient is 0

    def arguments(self, model):
        """This process's rows, {name: (k, W')}, as the arguments that the model's forward accepts:
        some models take no token_type_ids.
        """
        plain = accelerate.utils.extract_model_from_parallel(
            model, keep_fp32_wrapper=True, keep_torch_compile=False
        )
        accepted = set(inspect.signature(plain.forward).parameters)
        types = getattr(plain.config, "type_vocab_size", None)
        if types is not None and types < 2:
            accepted.discard("token_type_ids")  # RoBERTa takes its one type when none are given
        return {key: value for key, value in self.inputs.items() if key in accepted}

    def forward(self, model, layers=(), attention=False):
        """The model's Outputs for the global mini-batch; the features are its hidden states at
        `layers`.

        attention: whether to record the last layer's queries, keys and values too. If padding may
        be cut off, padding that is left inside W' is not computed either, if the model can do
        without (training/unpadding.py).
        """
        listening = heard(model) if attention else contextlib.nullcontext(())
        leaving_out = contextlib.nullcontext()
        if "columns" in self.targets:
            leaving_out = without_padding(model, self.inputs["attention_mask"])
        with listening as qkv, leaving_out as rows:
            out = model(**self.arguments(model), output_hidden_states=bool(layers))
        hidden, qkv = [out.hidden_states[i] for i in layers], tuple(qkv)
        if rows:
            hidden, qkv = map(rows.pad, hidden), [rows.pad(x, dim=2) for x in qkv]
        logits = self.gather(out.logits) if "logits" in out else None
        return Outputs(
            logits, tuple(map(self.gather, hidden)), attention=tuple(map(self.gather, qkv))
        )


def uncut(x, targets, *shape):
    """Put what was computed for a cut mini-batch at its place in whole rows, with 0 elsewhere.

    (B, ...) -> (B, *shape).
    """
    for dim, size in enumerate(shape, start=1):
        if x.shape[dim] != size:
            whole = x.new_zeros(*x.shape[:dim], size, *x.shape[dim + 1 :])
            x = whole.index_copy(dim, targets["columns"], x)
    return x


def first_tokens(h, targets):
    """The features of each sample's first token that is no padding: (B, W, D) -> (B, D)."""
    first = targets["attention_mask"].int().argmax(1)  # (B,)
    return h[torch.arange(len(h), device=h.device), first]


def for_teacher(targets):
    """The targets (see Rows) of the same mini-batch as the teacher reads it, with its own tokenizer
    or length; `targets` itself if both models read the rows alike.
    """
    return targets.get("teacher", targets)


def leave_out(h, targets):
    """The features h (B, W', D), with 0 where targets["mask"] is False; h itself without a mask."""
    return h * targets["mask"].unsqueeze(-1) if "mask" in targets else h


def flat(h, targets):
    """The features of each sample as one vector: (B, W', D) -> (B, W*D).

    With targets["mask"] (B, W'), a vector is 0 where it is False and where columns were cut off.
    """
    if "mask" in targets:
        h = uncut(leave_out(h, targets), targets, targets["length"], h.shape[2])
    return h.flatten(1)
