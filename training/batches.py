"""Global mini-batches: their order, the rows of each process, and the models' outputs gathered over
processes.
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

# mini-batches whose rows are sorted by length among themselves, where rows are grouped by length
SORTED = 16
NO_INPUTS = ("labels", "labelled", "mask")  # of what is known of a row, what no model reads


class Outputs(NamedTuple):
    """What a model says of a mini-batch: logits (B, K); features, one (B, W, D) for each layer
    asked for; attention, the last layer's queries, keys and values, (B, A, W, d) each, A being its
    heads.

    Of a teacher whose outputs are cached instead what the structures need of its features: tokens,
    one cka.token_structure (B, W, W) a layer, and relations, cka.memory_relations to its memory.
    """

    logits: torch.Tensor | None = None
    features: tuple = ()
    tokens: tuple = ()
    relations: dict | None = None
    attention: tuple = ()


def epoch_order(rows, batch_size, seed, epoch, lengths=None):
    """The mini-batches of an epoch, a tuple of index tensors. lengths: (rows,), to group rows by
    length.

    Grouped are the rows of every SORTED mini-batches that follow each other in the random order;
    the order of the mini-batches stays random.
    """
    own = 1000 * seed + epoch  # as published; beyond these it would be that of another seed's epoch
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
    """For each optimizer step from first_step on: (step, epoch, mini-batches), each mini-batch a
    tensor of indices.

    The order of an epoch depends on the seed and the epoch alone, so a resumed run needs no state
    to find its place.
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
    """A data set's rows, name -> tensor (N, W), and the `mask` that structures follow, if any.

    From here on it is what --mask_padding is: terms, memory and cache look at the mini-batch alone.
    """
    if not getattr(args, "mask_padding", False):
        return features
    return features | {"mask": features["attention_mask"]}


def with_labelled(features):
    """A data set's rows, name -> tensor, and where some lack a label which have one: `labelled`."""
    if "labels" not in features:
        return features
    labels = features["labels"]
    labelled = ~labels.isnan() if labels.is_floating_point() else labels != NO_CLASS
    return features if labelled.all() else features | {"labelled": labelled}


class Rows(torch.utils.data.Dataset):
    """A data set whose items are mini-batches, rows[indices] -> dict, so that a loader's workers
    can prepare them.

    features: name -> tensor (rows, ...); indices are those of a global mini-batch, of which process
    `rank` of `world` computes its share. cut: leave out the columns before the first and after the
    last token of the longest row. cache: a TeacherCache to read, too. beside: Rows of the same
    samples as the teacher reads them, where it has a tokenizer or length of its own; the cache is
    theirs then.
    """

    def __init__(self, features, cut=False, rank=0, world=1, cache=None, beside=None):
        self.features, self.cut, self.cache, self.beside = features, cut, cache, beside
        self.rank, self.world = rank, world

    def __getitem__(self, indices):
        """The item of a global mini-batch, a dict. indices: (B,).

        "inputs" are of this process alone, (k, W') each. "targets" are of the whole mini-batch:
        labels (B,), `labelled` (B,) where some rows have none, attention_mask (B, W'), the same as
        `mask` where structures leave padding out, and, if columns may be left out, `columns` (W',),
        which of the W these are. "teacher" has what is cached of it, of the whole mini-batch, too.
        "length" is W, "beside" the item of the rows as the teacher reads them, if it does alone.
        """
        # of all processes' rows, so that all compute the same columns and can be gathered
        mask = self.features["attention_mask"][indices].bool()
        columns = span(mask) if self.cut else slice(None)
        mine = indices[self.rank :: self.world]
        if len(mine) < math.ceil(len(indices) / self.world):
            # the last mini-batch may lack a row here: one fills in, and `gather` drops it
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
    """The Rows of a training: the student's, and beside them the teacher's, if these are others."""
    if read_by_teacher is None:
        return Rows(features, cut, rank, world, cache)
    beside = Rows(read_by_teacher, cut, rank, world, cache)
    return Rows(features, cut, rank, world, beside=beside)


class Windows(torch.utils.data.Dataset):
    """The mini-batches of an optimizer step together, by a plan of `windows`; of Rows."""

    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, planned):
        """planned: (step, epoch, mini-batches of indices). Returns these with items of Rows."""
        step, epoch, batches = planned
        return step, epoch, [self.rows[indices] for indices in batches]


def load(dataset, places, workers, pin_memory):
    """A loader of dataset[place] for each place in turn, prepared ahead by so many processes."""
    # a generator of its own: the loader draws a seed, which would shift the training's numbers
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
    """The columns from the first to the last that is no padding in all rows, a slice. mask: (B, W)
    bool.
    """
    real = mask.any(0).nonzero()
    return slice(int(real[0]), int(real[-1]) + 1) if len(real) else slice(0, mask.shape[1])


def outlive_saving(worker):
    """SIGTERM to all processes of a run leaves a loader's workers the seconds in which their parent
    saves.
    """
    # they end before, when the loader is closed
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


class GatherRows(torch.autograd.Function):
    """(k, ...) of this process -> (processes, k, ...) of all.

    Every process computes the same loss from the gathered rows, but the gradient of its own rows
    alone. DistributedDataParallel then takes the mean over the P processes; so a row's gradient is
    multiplied by P here, and what comes out is the sum over all rows, as in one process but for
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
    """One global mini-batch on the device: an item of Rows, and how all processes' outputs come
    together.

    world: over how many processes its rows are spread. of_teacher: the MiniBatch as the teacher
    reads it, whose targets are `teacher` of these; this one where both read alike.
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
        return rows[: self.size]  # without those that filled in, whose gradient is 0 so

    def arguments(self, model):
        """This process's rows as the arguments that the model's forward has; some have no
        token_type_ids.
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
        """The model's Outputs for the global mini-batch, with the hidden states at `layers` and no
        others.

        Where padding may be cut off, what is left of it is not computed either, as far as the model
        can do without.
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
    """What was computed of a cut mini-batch at its place in whole rows, 0 elsewhere: (B, ...) ->
    (B, *shape).
    """
    for dim, size in enumerate(shape, start=1):
        if x.shape[dim] != size:
            whole = x.new_zeros(*x.shape[:dim], size, *x.shape[dim + 1 :])
            x = whole.index_copy(dim, targets["columns"], x)
    return x


def first_tokens(h, targets):
    """The features of each sample's first token, padding not counted: (B, W, D) -> (B, D)."""
    first = targets["attention_mask"].int().argmax(1)  # (B,)
    return h[torch.arange(len(h), device=h.device), first]


def for_teacher(targets):
    """The targets of a MiniBatch as the teacher reads it."""
    return targets.get("teacher", targets)


def leave_out(h, targets):
    """Features (B, W', D), 0 at the positions that the `mask` of the targets leaves out."""
    return h * targets["mask"].unsqueeze(-1) if "mask" in targets else h


def flat(h, targets):
    """Features of samples as rows, without the positions that the `mask` of the targets leaves out:
    (B, W', D) -> (B, W*D).
    """
    if "mask" in targets:
        h = uncut(leave_out(h, targets), targets, targets["length"], h.shape[2])
    return h.flatten(1)
