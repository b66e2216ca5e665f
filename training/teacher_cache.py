"""--teacher_cache: a frozen teacher's outputs for a task, computed once and shared by every run of
a sweep.

    DIR/mrpc-0123456789abcdef/        a teacher, its data, tokenizer, length and precision (facts.json says which)
      logits.npy                      (N, K) float32, for KD
      features-11.npy                 (N, W, D) float16, for L, and for I beside it
      tokens-11-biased.npy            (N, W, W) float16, cka.token_structure, for I alone
      relations-89abcdef01234567.npy  (N, 2, C) float32, distances and cosines to a memory, for G
      attention.npy                   (N, 3, A, W, d) float16, the last layer's queries, keys and values, for MiniLM

A run reads the files that its terms need, memory-mapped, and makes those that are missing in one
pass of the teacher.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import accelerate
import filelock
import numpy as np
import torch

import cka
import termination
from common import UserError, discard, move, naming, progress, read_json, say, write_json
from training.batches import MiniBatch, Outputs, Rows, flat, uncut

NUMPY = {torch.float16: np.dtype("<f2"), torch.float32: np.dtype("<f4")}


class Entry(NamedTuple):
    """A file: the numbers of each sample, and how they follow from the teacher's outputs."""

    source: (
        int | str
    )  # the layer of the hidden state that it is made of, or "logits" or "attention"
    shape: tuple
    dtype: torch.dtype
    make: object = lambda x, batch: (
        x
    )  # (source, MiniBatch) -> (B, *shape), or of the columns that were computed
    padding: bool = (
        False  # whether it holds what the teacher says at padded positions; else these are 0
    )

    @property
    def bytes(self):
        """Of a sample."""
        return NUMPY[self.dtype].itemsize * math.prod(self.shape)


def entries(needs, layers, config, args, memories=None, memory_name=""):
    """{kind: {file name: Entry}} of what terms need, a set among logits, tokens, features,
    relations and attention.

    layers: the teacher's hidden states in use, the penultimate last. config: the teacher's.
    """
    length, mask_padding = args.max_seq_length, args.mask_padding
    masked = "-masked" if mask_padding else ""

    def tokens(h, batch):
        return cka.token_structure(
            h, batch.targets["attention_mask"] if mask_padding else None, args.cka_estimator
        )

    def relations(h, batch):
        found = cka.memory_relations(flat(h, batch.targets, length, mask_padding), memories.teacher)
        return torch.stack([found[psi] for psi in cka.PSI], 1)  # (B, 2, C)

    wanted = {}
    if "logits" in needs:
        wanted["logits"] = {"logits": Entry("logits", (config.num_labels,), torch.float32)}
    if "features" in needs:
        wanted["features"] = {
            f"features-{k}": Entry(k, (length, config.hidden_size), torch.float16, padding=True)
            for k in layers
        }  # with and without --mask_padding
    elif "tokens" in needs:
        wanted["tokens"] = {
            f"tokens-{k}-{args.cka_estimator}{masked}": Entry(
                k, (length, length), torch.float16, tokens, not mask_padding
            )
            for k in layers
        }
    if "relations" in needs:
        wanted["relations"] = {
            f"relations-{memory_name[:16]}{masked}": Entry(
                layers[-1], (2, len(memories.student)), torch.float32, relations, not mask_padding
            )
        }
    if "attention" in needs:
        heads = config.num_attention_heads
        wanted["attention"] = {
            "attention": Entry(
                "attention",
                (3, heads, length, config.hidden_size // heads),
                torch.float16,
                lambda qkv, batch: torch.stack(qkv, 1),
            )
        }
    return wanted


class TeacherCache:
    """The files of one teacher and data set. facts: all that decides them, JSON-able; rows: N.

    wanted: what `entries` returned. Under several processes the first one reads, decides and
    writes.
    """

    def __init__(self, folder, facts, rows, wanted):
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(folder) / f"{facts['task'].lower()}-{digest[:16]}"
        self.facts, self.rows, self.wanted, self.values = facts, rows, wanted, {}
        self.files = {name: entry for kind in wanted.values() for name, entry in kind.items()}
        self.lock = filelock.FileLock(self.folder / ".lock")

    # ---- reading ---------------------------------------------------------------------------------

    def path(self, name):
        return self.folder / f"{name}.npy"

    def open(self):
        """Map the files into memory. Returns this cache."""
        for name, entry in self.files.items():
            expected = f"{NUMPY[entry.dtype]} {(self.rows, *entry.shape)}"
            try:
                values = np.asarray(np.load(self.path(name), mmap_mode="r", allow_pickle=False))
                found = f"{values.dtype} {values.shape}"
            except (OSError, ValueError, EOFError) as error:
                found = f"{type(error).__name__}: {error}"
            if found != expected:
                raise UserError(
                    f"{self.path(name)} should hold {expected}, found {found}: delete it to have "
                    "it made again"
                )
            self.values[name] = values
        return self

    def read(self, indices, columns=slice(None)):
        """The wanted numbers of samples (B,), at the positions `columns`, a slice; file name ->
        tensor (B, ...).
        """
        every = slice(None)
        places = {
            "features": (columns,),
            "tokens": (columns, columns),
            "attention": (every, every, columns),
        }
        rows = indices.numpy()
        return {
            name: torch.from_numpy(self.values[name][(rows, *places.get(kind, ()))])
            for kind, names in self.wanted.items()
            for name in names
        }

    def outputs(self, found):
        """The teacher's Outputs from what `read` returned."""
        kinds = {
            kind: tuple(found[name].float() for name in files)
            for kind, files in self.wanted.items()
        }
        if "logits" in kinds:
            kinds["logits"] = kinds["logits"][0]
        if "relations" in kinds:
            kinds["relations"] = dict(zip(cka.PSI, kinds["relations"][0].unbind(1), strict=True))
        if "attention" in kinds:
            kinds["attention"] = kinds["attention"][0].unbind(1)
        return Outputs(**kinds)

    # ---- making ----------------------------------------------------------------------------------

    def complete(self, teacher, features, batch_size, save_steps, workers=0, can_cut=True):
        """Make the files that are missing, unless another run is making them; then open them.
        Returns this cache.

        teacher: a training.teacher.Teacher. features: the data set, name -> tensor (N, ...). Every
        `save_steps` mini-batches what is done is made safe: a run that is killed goes on from
        there. can_cut: False where the teacher itself reads padding.
        """
        first = teacher.accelerator.is_main_process

        def decided(function, *arguments):
            """What the first process finds, in all of them."""
            return accelerate.utils.broadcast_object_list(
                [function(*arguments) if first else None]
            )[0]

        if decided(self.missing):
            waited = 0
            while not decided(
                self.hold, waited
            ):  # in short turns, as the other processes wait no longer than minutes
                waited += 1
            try:
                if missing := decided(self.missing):  # another run may have made them
                    self.make(
                        missing,
                        decided(self.begin, missing),
                        teacher,
                        features,
                        batch_size,
                        save_steps,
                        workers,
                        can_cut,
                    )
            finally:
                self.lock.release()
        teacher.accelerator.wait_for_everyone()
        return self.open()

    def missing(self):
        return [name for name in self.files if not self.path(name).exists()]

    def hold(self, waited):
        """True once the folder is held by this run; another one may be writing there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=5 if waited else 0)
        except filelock.Timeout:
            if not waited:
                say(f"waiting for another run that is writing to {self.folder}")
            return False
        return True

    def partial(self, name):
        return self.folder / f"{name}.npy.partial"

    def abandon(self):
        """Remove what is not whole."""
        for path in (*self.folder.glob("*.partial"), self.folder / "partial.json"):
            path.unlink(missing_ok=True)

    def rows_done(self, missing):
        """How many rows a killed run has left of just these files."""
        before = read_json(self.folder / "partial.json")
        rows = before.get("rows", 0)
        whole = all(
            self.partial(name).is_file()
            and self.partial(name).stat().st_size >= rows * self.files[name].bytes
            for name in missing
        )
        return rows if whole and sorted(before.get("files", [])) == sorted(missing) else 0

    def begin(self, missing):
        """Say what will be written, refuse where it does not fit. Returns the rows that a killed
        run had done.
        """
        for path in self.folder.glob(".*.tmp*"):  # of a killed run, as this one holds the folder
            discard(path)
        done = self.rows_done(missing)
        if not done:
            self.abandon()
        sample, free = (
            sum(self.files[name].bytes for name in missing),
            shutil.disk_usage(self.folder).free,
        )
        size, more = self.rows * sample, (self.rows - done) * sample
        if more > free:
            raise UserError(
                f"the teacher cache needs {more / 1e6:,.1f} MB more in {self.folder}, where "
                f"{free / 1e6:,.1f} MB are free: name another --teacher_cache, or leave it out"
            )
        say(
            f"making the teacher cache {self.folder}: {', '.join(missing)}, {size / 1e6:,.1f} MB"
            + (f"; {done} of {self.rows} samples are done" if done else "")
        )
        write_json(self.folder / "facts.json", self.facts)
        return done

    def make(self, missing, done, teacher, features, batch_size, save_steps, workers, can_cut):
        """One pass of the teacher over the samples from `done` on; the files take their names at
        its end.
        """
        accelerator, sources = teacher.accelerator, {self.files[name].source for name in missing}
        layers = sorted(sources - {"logits", "attention"})
        world, gpu = accelerator.num_processes, accelerator.device.type == "cuda"
        batches = (
            torch.arange(done, self.rows).split(batch_size * world) if done < self.rows else []
        )
        cut = can_cut and not any(self.files[name].padding for name in missing)
        items = Rows(features, cut, accelerator.process_index, world).loader(batches, workers, gpu)
        agreement = termination.Agreement(accelerator, "teacher cache")
        termination.hold()
        bar = progress(items, total=len(batches), desc="teacher cache", unit="batch")
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(self.append(name, done))
                for name in missing
                if accelerator.is_main_process
            }
            for step, item in enumerate(bar, start=1):
                batch = MiniBatch(item, accelerator.device, world)
                outputs = teacher(batch, layers, "logits" in sources, "attention" in sources)
                found = dict(zip(layers, outputs.features, strict=True)) | {
                    "logits": outputs.logits,
                    "attention": outputs.attention,
                }
                for name, file in files.items():
                    with naming(self.partial(name)):
                        file.write(self.numbers(name, found, batch))
                done += batch.size
                stopping = step < len(batches) and agreement.asks(step)
                if files and (stopping or step % save_steps == 0 or step == len(batches)):
                    self.make_safe(files, done)
                if stopping:
                    bar.close()
                    termination.stop(
                        f"{done} of {self.rows} samples of the teacher cache are saved"
                    )
        for name in files:
            move(self.partial(name), self.path(name))
        if files:
            (self.folder / "partial.json").unlink()
        termination.release()

    def numbers(self, name, found, batch):
        """The bytes of a mini-batch in a file. found: what entries are made of, by its name."""
        entry = self.files[name]
        values = uncut(entry.make(found[entry.source], batch), batch.targets, *entry.shape)
        values = values.to(entry.dtype).contiguous()
        if not values.isfinite().all():
            self.abandon()
            raise UserError(
                f"the teacher's {name} have numbers that {NUMPY[entry.dtype]} cannot hold: run "
                "without --teacher_cache"
            )
        return values.cpu().numpy().astype(NUMPY[entry.dtype], copy=False).tobytes()

    @contextlib.contextmanager
    def append(self, name, done):
        """A .npy file whose header tells of all rows, open at the row `done`."""
        entry = self.files[name]
        with open(self.partial(name), "r+b" if done else "wb") as file:
            np.lib.format.write_array_header_1_0(
                file,
                {
                    "descr": NUMPY[entry.dtype].str,
                    "fortran_order": False,
                    "shape": (self.rows, *entry.shape),
                },
            )
            file.seek(done * entry.bytes, os.SEEK_CUR)
            file.truncate()
            yield file

    def make_safe(self, files, rows):
        for name, file in files.items():
            with naming(self.partial(name)):
                file.flush()
                os.fsync(file.fileno())
        write_json(self.folder / "partial.json", {"rows": rows, "files": sorted(files)})
