"""--teacher_cache: a frozen teacher's outputs for a task, computed once and shared by every run.

    DIR/mrpc-0123456789abcdef/      a teacher, its data, tokenizer, length, precision (facts.json)
      logits/                       (N, K) float32, for KD
      features-11/                  (N, W, D) float16, for L, for I if L is there too, and for the
                                    k-means of train_memory.py
      tokens-11-biased/             (N, W, W) float16, cka.token_structure, for I alone
      relations-89abcdef01234567/   (N, 2, C) float32, distances and cosines to a memory, for G
      attention/                    (N, 3, A, W, d) float16, the last layer's queries, keys, values,
                                    for MiniLM
        00000.safetensors           the first 1,024 samples, and so on

A run reads the entries (folders) that its terms need, memory-mapped. It makes missing shards
(files) in one pass of the teacher; each is whole or not there, so after a kill the next run goes
on. A shard has a note of what it is and a checksum (training/cache_shards.py); those of earlier
versions had none, and are made again.
"""

import hashlib
import json
import math
import shutil
from pathlib import Path

import accelerate
import filelock
import torch

from common import UserError, progress, read_json, say, termination, write_json
from relations import PSI
from training.agreement import Agreement
from training.batches import MiniBatch, Outputs, Rows, load, uncut
from training.cache_shards import check_identity, check_numbers, map_shard, write_shard
from training.identity import cache_facts

SHARD = 1024  # samples


def fill_cache(session, record, identity, teacher, features, wanted, batch_size):
    """The TeacherCache in --teacher_cache with the entries `wanted`, complete and checked.

    identity: the run's training.identity.Identity. teacher: a training.teacher.Teacher. features:
    the Features of the training rows as the teacher reads them. batch_size: samples a process
    computes at a time. The cache's folders go into the Record.
    """
    args = session.args
    cache = TeacherCache(args.teacher_cache, cache_facts(identity), identity.rows, wanted)
    record.teacher_cache = sorted(str(cache.path(name)) for name in cache.entries)
    # not asked for nothing: a Teacher in half precision cannot be tried any more
    cuts = not all(entry.padding for entry in cache.entries.values())
    can_cut = cuts and session.can_cut(teacher.model, features)
    workers = args.dataloader_num_workers
    return cache.complete(teacher, features.tensors, batch_size, workers, can_cut)


class TeacherCache:
    """The cached outputs of one teacher for one data set.

    facts: all that decides them, JSON-able. rows: N. wanted: what cache_entries.entries
    returned. With several
    processes, the main one decides and writes.
    """

    def __init__(self, folder, facts, rows, wanted):
        self.digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(folder) / f"{facts['task'].lower()}-{self.digest[:16]}"
        self.facts, self.rows, self.wanted, self.shards = facts, rows, wanted, {}
        self.entries = {name: entry for kind in wanted.values() for name, entry in kind.items()}
        self.lock = filelock.FileLock(self.folder / ".lock")

    def path(self, name, shard=None):
        """The folder of an entry, or the file of one of its shards."""
        folder = self.folder / name
        return folder if shard is None else folder / f"{shard:05}.safetensors"

    def rows_of(self, shard):
        """The indices of the samples of a shard, a range."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.rows))

    def count(self):
        """The number of shards of an entry."""
        return math.ceil(self.rows / SHARD)

    def missing(self):
        """[(shard, the names of the entries that lack it)]."""
        found = []
        for shard in range(self.count()):
            names = [name for name in self.entries if not self.is_there(name, shard)]
            if names:
                found.append((shard, names))
        return found

    def is_there(self, name, shard):
        """Whether a shard's file exists and need not be made again.

        A file of an earlier version, which has no note (identity, checksum), must be made again.
        """
        if not self.path(name, shard).exists():
            return False
        try:
            _, note = self.map(name, shard)
        except UserError:
            return True  # damaged: `open` raises the error
        return bool(note)

    def identity(self, name, shard):
        """The identity that the note of a shard must have: its entry, number and cache, a dict."""
        return {"entry": name, "shard": shard, "cache": self.digest}

    def map(self, name, shard):
        """The numbers of a shard's samples and its note, as map_shard returns them."""
        stored = self.entries[name].stored
        shape = (len(self.rows_of(shard)), *stored.shape)
        return map_shard(self.path(name, shard), stored.dtype, shape)

    # ---- reading ---------------------------------------------------------------------------------

    def open(self):
        """Map all shards into memory; refuse those that are not this cache's. Returns this cache.

        Their numbers are not read yet.
        """
        self.check_facts()
        for name in self.entries:
            self.shards[name] = [self.open_shard(name, shard) for shard in range(self.count())]
        return self

    def open_shard(self, name, shard):
        """The numbers of a shard's samples, a tensor whose data is read from the disk on use."""
        values, note = self.map(name, shard)
        check_identity(self.path(name, shard), note, self.identity(name, shard))
        return values

    def check_facts(self):
        """Refuse a facts.json that tells of another cache; a missing one is no error."""
        path = self.folder / "facts.json"
        found = read_json(path)
        differ = [key for key in {**self.facts, **found} if found.get(key) != self.facts.get(key)]
        if found and differ:
            raise UserError(
                f"{path} should describe this run's teacher cache, found another {differ[0]}: "
                "delete its folder to have the cache made again"
            )

    def check(self, accelerator):
        """Read all numbers once; refuse those that were changed since they were written.

        Each process reads its part of them.
        """
        # A run reads its cache once an epoch; this is once more. So the user hears of damage before
        # the training; checksums of each sample would tell of it in the middle of the training.
        rank, world = accelerator.process_index, accelerator.num_processes
        shards = [(name, shard) for name in self.entries for shard in range(self.count())]
        turns = range(0, len(shards), world)
        bar = progress(turns, desc="checking the teacher cache", unit="shard", delay=10)
        for turn in bar:  # short turns, as processes wait only some minutes for each other
            own = [self.find_damage(*shard) for shard in shards[turn : turn + world][rank:][:1]]
            for wrong in accelerate.utils.gather_object(own):
                if wrong:
                    raise UserError(wrong)

    def find_damage(self, name, shard):
        """A sentence on what is wrong with a shard's numbers; None if nothing is."""
        try:
            values, note = self.map(name, shard)
            check_numbers(self.path(name, shard), values, note)
        except UserError as error:
            return str(error)
        return None

    def read(self, indices, columns=slice(None)):
        """The cached numbers of samples (B,) at the positions `columns`, a slice: name ->
        (B, ...).
        """
        every = slice(None)
        places = {
            "features": (columns,),
            "tokens": (columns, columns),
            "attention": (every, every, columns),
        }
        found = {}
        for kind, names in self.wanted.items():
            for name in names:
                rows = [
                    self.shards[name][i // SHARD][(i % SHARD, *places.get(kind, ()))]
                    for i in indices.tolist()
                ]
                found[name] = torch.stack(rows)
        return found

    def outputs(self, found):
        """The teacher's Outputs from what `read` returned."""
        kinds = {
            kind: tuple(found[name].float() for name in names)
            for kind, names in self.wanted.items()
        }
        if "logits" in kinds:
            kinds["logits"] = kinds["logits"][0]
        if "relations" in kinds:
            kinds["relations"] = dict(zip(PSI, kinds["relations"][0].unbind(1), strict=True))
        if "attention" in kinds:
            kinds["attention"] = kinds["attention"][0].unbind(1)
        return Outputs(**kinds)

    # ---- making ----------------------------------------------------------------------------------

    def complete(self, teacher, features, batch_size, workers=0, can_cut=True):
        """Make the missing shards, or wait for a run that makes them; then open and check all.

        teacher: a training.teacher.Teacher. features: the data set, name -> tensor (N, ...).
        can_cut: False if the teacher itself reads padding. Returns this cache.
        """
        first = teacher.accelerator.is_main_process

        def decide(function, *arguments):
            """What the function returns in the main process, given to all processes."""
            found = [function(*arguments) if first else None]
            return accelerate.utils.broadcast_object_list(found)[0]

        if decide(self.missing):
            waited = 0
            # in short turns, as the other processes wait no longer than minutes
            while not decide(self.hold, waited):
                waited += 1
            try:
                if missing := decide(self.missing):  # another run may have made them
                    decide(self.begin, missing)
                    self.make(missing, teacher, features, batch_size, workers, can_cut)
            finally:
                self.lock.release()
        teacher.accelerator.wait_for_everyone()
        self.open().check(teacher.accelerator)
        return self

    def hold(self, waited):
        """Try to lock the folder; False if another run holds it. waited: the tries before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=5 if waited else 0)
        except filelock.Timeout:
            if not waited:
                say(f"waiting for another run that is writing to {self.folder}")
            return False
        return True

    def begin(self, missing):
        """Say what will be written; UserError if the disk has no room for it. Writes facts.json."""
        names = [name for name in self.entries if any(name in lacking for _, lacking in missing)]
        size = sum(self.rows * self.entries[name].bytes for name in names)
        shards = [(name, shard) for shard, lacking in missing for name in lacking]
        earlier = [pair for pair in shards if self.path(*pair).exists()]  # which are replaced
        more = sum(
            len(self.rows_of(shard)) * self.entries[name].bytes
            for name, shard in shards
            if (name, shard) not in earlier
        )
        free = shutil.disk_usage(self.folder).free
        if more > free:
            raise UserError(
                f"the teacher cache needs {more / 1e6:,.1f} MB more in {self.folder}, where "
                f"{free / 1e6:,.1f} MB are free: name another --teacher_cache, or leave it out"
            )
        done = self.rows - sum(len(self.rows_of(shard)) for shard, _ in missing)
        what = f"{', '.join(names)}, {size / 1e6:,.1f} MB"
        said = f"; {done} of {self.rows} samples are done" if done else ""
        say(f"making the teacher cache {self.folder}: {what}{said}")
        if earlier:
            say(
                f"{len(earlier)} of its shards are an earlier version's, which did not say what "
                "they hold: they are made again"
            )
        write_json(self.folder / "facts.json", self.facts)

    def make(self, missing, teacher, features, batch_size, workers, can_cut):
        """One pass of the teacher over the samples of the missing shards."""
        accelerator, lacking = teacher.accelerator, dict(missing)
        names = {name for some in lacking.values() for name in some}
        rank, world = accelerator.process_index, accelerator.num_processes
        cut = can_cut and not any(self.entries[name].padding for name in names)
        batches = [
            indices
            for shard in lacking
            for indices in torch.tensor(self.rows_of(shard)).split(batch_size * world)
        ]
        rows, gpu = Rows(features, cut, rank, world), accelerator.device.type == "cuda"
        bar = progress(
            load(rows, batches, workers, gpu),
            total=len(batches),
            desc="teacher cache",
            unit="batch",
        )
        agreement = Agreement(accelerator, "teacher cache")
        termination.hold()
        done, parts = self.rows - sum(len(self.rows_of(shard)) for shard in lacking), {}
        for step, item in enumerate(bar, start=1):
            batch = MiniBatch(item, accelerator.device, world)
            shard = int(batch.indices[0]) // SHARD
            found = self.ask(teacher, batch, lacking[shard])
            if accelerator.is_main_process:
                for name in lacking[shard]:
                    parts.setdefault(name, []).append(self.numbers(name, found, batch))
            if int(batch.indices[-1]) + 1 == self.rows_of(shard).stop:
                self.write(shard, parts)
                done, parts = done + len(self.rows_of(shard)), {}
            if step < len(batches) and agreement.asks(step):
                bar.close()
                termination.stop(f"{done} of {self.rows} samples of the teacher cache are saved")
        termination.release()

    def ask(self, teacher, batch, names):
        """The teacher's outputs that the entries of these names are made of, {source: outputs}."""
        sources = {self.entries[name].source for name in names}
        layers = sorted(sources - {"logits", "attention"})
        outputs = teacher(batch, layers, "logits" in sources, "attention" in sources)
        found = dict(zip(layers, outputs.features, strict=True))
        return found | {"logits": outputs.logits, "attention": outputs.attention}

    def numbers(self, name, found, batch):
        """What a mini-batch adds to an entry's shard, on the CPU: (B, *shape).

        found: the teacher's outputs, as ask returns them. UserError if the entry's dtype cannot
        hold a number.
        """
        entry = self.entries[name]
        values = entry.make(found[entry.source], batch)
        values = uncut(values, batch.targets, *entry.shape).to(entry.dtype)
        if not values.isfinite().all():
            raise UserError(
                f"the teacher's {name} have numbers that {entry.stored.dtype} cannot hold: "
                "run without --teacher_cache"
            )
        return values.cpu()

    def write(self, shard, parts):
        """Write a shard of each entry in `parts`, {name: [mini-batches]}, whole or not at all."""
        for name, values in parts.items():
            path = self.path(name, shard)
            write_shard(path, torch.cat(values), self.identity(name, shard))
