"""Builds a memory by k-means over a teacher's penultimate features: logged and saved pass by pass.

rows, teacher -> unfinished clustering, else first centroids -> passes -> memory and its picture
"""

import json
import time

import accelerate
import pandas as pd
import torch
from safetensors import SafetensorError

import common
import memory
from common import UserError, say, termination
from training import flags, logs, memory_file, models, records
from training.agreement import Agreement
from training.batches import MiniBatch, Rows, flat, load
from training.cache_entries import entries
from training.checkpoints import check_output, checkpoints, other_settings
from training.identity import clustering_settings, identify, memory_facts
from training.teacher import Teacher
from training.teacher_cache import fill_cache
from training.tokenizer import load_tokenizer

STATE = "clustering.safetensors"  # an unfinished clustering's file in the output folder


def run(session):
    """Cluster as the session's flags say. Returns the exit code."""
    args, output = session.args, session.output
    check_output(args, "memory")
    record = records.Record.begin(session, "memory")
    clustering = Clustering(session, record)
    settings = clustering_settings(clustering.identity, clustering.teacher.model, args)
    progress, tensors = find_unfinished(args, output / STATE, settings)
    if args.teacher_cache:
        clustering.open_cache()  # before the folder is cleared, as a cache may be refused
    session.accelerator.wait_for_everyone()  # all look before the first clears the folder
    if tensors is None and common.is_main_process():
        records.clear(output)
        for path in checkpoints(output):
            common.remove_folder(path)
    if tensors is not None:
        before = common.read_json(output / "run.json")
        record.started = before.get("started", record.started)
        with records.complete_run(output):
            record.follow(before)
    record.settings = settings
    record.write(output)
    log = logs.Log(output, args.run_file, progress["step"])
    kmeans = clustering.make_kmeans(tensors)
    termination.hold()  # to the end: SIGTERM does not stop the writing of a finished memory
    found = clustering.run_passes(kmeans, progress, log)
    if common.is_main_process():
        clustering.leave(kmeans, found, progress, log)
    return 0


def find_unfinished(args, state, settings):
    """(progress, tensors) of a clustering that was cut off, or a fresh progress and None.

    state: the path of its file STATE. settings: this run's. UserError if the file is damaged or was
    written with other settings, unless --overwrite_output_dir is given.
    """
    if isinstance(args.resume_from_checkpoint, str):
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: train_memory.py goes on from "
            "what is in its own --output_dir; leave the value out"
        )
    fresh = {"settings": settings, "step": 0, "seconds": 0.0, "history": []}
    if not state.is_file() or common.read_json(state.parent / "run.json").get("finished"):
        if args.resume_from_checkpoint:
            raise UserError(
                f"--resume_from_checkpoint: there is no unfinished clustering in {state.parent}: "
                "name its --output_dir, or leave the flag out to start afresh"
            )
        return fresh, None
    try:
        tensors, metadata = memory_file.load_state(state)
        progress = json.loads(metadata["progress"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if args.overwrite_output_dir:
            return fresh, None
        raise UserError(
            f"{state} is damaged ({type(error).__name__}: {error}): delete it to start afresh"
        ) from None
    progress["settings"] = flags.as_of_today(progress["settings"])
    if progress["settings"] == settings:
        done = len(progress["history"]) + 1
        say(f"going on after {progress['step']} mini-batches, in pass {done}")
        return progress, tensors
    if args.overwrite_output_dir:
        return fresh, None
    raise other_settings(state, progress["settings"], settings)


class Clustering:
    """The rows, the teacher and the passes of one k-means; `leave` writes the results."""

    def __init__(self, session, record):
        args = session.args
        self.session, self.record, self.args = session, record, args
        self.accelerator, self.output = session.accelerator, session.output
        tokenizer = load_tokenizer(args)
        self.features = session.features("train", tokenizer, args.max_train_samples)
        self.rows = len(self.features.indices)
        if args.num_centroid > self.rows:
            raise UserError(
                f"--num_centroid is {args.num_centroid}, but there are {self.rows} training "
                f"samples to cluster: pass {self.rows} or less"
            )
        teacher = models.load_teacher(args, session.task, tokenizer).to(session.device)
        self.identity = identify(session, tokenizer, self.features, teacher)
        record.data, record.teacher = {"train": self.features.source}, self.identity.teacher
        self.facts = memory_facts(self.identity, teacher, args)
        cut = "mask" in self.features.tensors and session.can_cut(teacher, self.features)
        self.data = Rows(self.features.tensors, cut)
        self.teacher, self.cache = Teacher(teacher, self.accelerator), None

    # ---- features --------------------------------------------------------------------------------

    def open_cache(self):
        """Read the teacher's features from --teacher_cache from now on; fill it first."""
        args, layer = self.args, self.facts["layer"]
        masked, config = "mask" in self.features.tensors, self.teacher.model.config
        wanted = entries({"features"}, [layer], config, args, masked)
        size = args.per_gpu_memory_train_batch_size
        self.cache = fill_cache(
            self.session, self.record, self.identity, self.teacher, self.features, wanted, size
        )
        self.data = Rows(self.features.tensors, self.data.cut, cache=self.cache)

    def load(self, batches):
        """A loader of the items of Rows for mini-batches of indices, which are prepared ahead."""
        gpu = self.accelerator.device.type == "cuda"
        return load(self.data, batches, self.args.dataloader_num_workers, gpu)

    def rows_of(self, item):
        """The teacher's features of the samples of an item, one row each: (B, W*D) float32."""
        batch = MiniBatch(item, self.accelerator.device)
        if self.cache:
            (h,) = self.cache.outputs(batch.teacher).features  # (B, W, D)
        else:
            (h,) = self.teacher(batch, (self.facts["layer"],), logits=False).features
        return flat(h.float(), batch.targets)

    def sample(self, indices):
        """The features (S, W*D) of the S samples at `indices`, on the CPU."""
        chosen = indices.split(self.args.per_gpu_memory_train_batch_size)
        bar = common.progress(
            self.load(chosen), desc="sample for the start", unit="batch", leave=False
        )
        sample = torch.cat([self.rows_of(item).cpu() for item in bar])
        memory.check_finite(sample)
        return sample

    # ---- the start -------------------------------------------------------------------------------

    def make_kmeans(self, tensors=None):
        """The KMeans at its start, or, given the tensors of a saved state, where that left off."""
        accelerator, args = self.accelerator, self.args
        start = self.find_start() if tensors is None else tensors["centroids"]
        start = accelerate.utils.broadcast(start.to(accelerator.device))
        kmeans = memory.KMeans(
            start,
            self.rows,
            args.memory_learning_rate,
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.reduce,
            restarts=args.memory_init != "released",
        ).to(accelerator.device)
        if tensors is not None:
            kmeans.load(tensors)
        return kmeans

    def find_start(self):
        """The first centroids (C, W*D), from features of rows that --memory_init draws."""
        args = self.args
        if args.memory_init == "released":
            return self.find_released_start()
        generator = torch.Generator().manual_seed(args.seed)
        order = torch.randperm(self.rows, generator=generator)
        sample = self.sample(order[: memory.SAMPLE * args.num_centroid].sort().values)
        return memory.start_centroids(sample, args.num_centroid, args.memory_init, args.seed)

    def find_released_start(self):
        """The authors' released start (C, W*D). With a mask it is computed from tokens alone, and 0
        at the positions that are padding in all rows.
        """
        args, batches = self.args, self.batches()
        last = self.sample(batches[-1])  # (B, W*D)
        shape = args.num_centroid, last.shape[1]
        if "mask" not in self.data.features:
            return memory.released_centroids(last, len(batches), shape, args.seed)
        mask = self.data.features["mask"].bool()  # (N, W)
        tokens = last.view(len(last), args.max_seq_length, -1)[mask[batches[-1]]]  # (tokens, D)
        start = memory.released_centroids(tokens, len(batches), shape, args.seed)
        return start * mask.any(0).repeat_interleave(tokens.shape[1])  # (W,) -> (W*D,); else 0

    # ---- passes ----------------------------------------------------------------------------------

    def batches(self):
        """The global mini-batches of a pass, a tuple of index tensors."""
        size = self.args.per_gpu_memory_train_batch_size * self.accelerator.num_processes
        return torch.arange(self.rows).split(size)

    def run_passes(self, kmeans, progress, log):
        """Pass after pass until the last, or until no sample changes its cluster.

        progress: step (mini-batches done), seconds, history (a dict of numbers per pass), settings;
        it is kept up to date. Returns what KMeans.update found in the last pass.
        """
        args, last = self.args, self.args.memory_num_train_epochs
        agreement = Agreement(self.accelerator, "clustering")
        while True:
            number = len(progress["history"]) + 1
            self.run_pass(kmeans, progress, log, number, agreement)
            found = kmeans.update()
            progress["history"].append(self.log_pass(log, progress["step"], number, found))
            settled = found["changed"] == 0 and args.memory_learning_rate == 1
            if number == last or settled:
                return found
            self.save_state(kmeans, progress)
            if agreement.asks(progress["step"]):
                termination.stop(f"pass {number} of {last} is saved")

    def run_pass(self, kmeans, progress, log, number, agreement):
        """Do the rest of pass `number`: each process adds its rows of a mini-batch to `kmeans`."""
        args, rank, world = (
            self.args,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        batches = self.batches()
        before, seconds, started = (
            (number - 1) * len(batches),
            progress["seconds"],
            time.perf_counter(),
        )
        done = progress["step"] - before
        bar = common.progress(
            total=len(batches),
            initial=done,
            unit="batch",
            desc=f"pass {number} of {args.memory_num_train_epochs}",
        )
        mine = [batch[rank::world] for batch in batches[done:]]
        items = iter(self.load([indices for indices in mine if len(indices)]))
        for step, indices in enumerate(mine, start=progress["step"] + 1):
            if len(indices):
                kmeans.add(self.rows_of(next(items)), indices)
            progress |= {"step": step, "seconds": seconds + time.perf_counter() - started}
            bar.update()
            if step % args.logging_steps == 0:
                log(step, running=kmeans.so_far())
            if step == before + len(batches):
                break
            stopping = agreement.asks(step)
            if stopping or step % args.save_steps == 0:
                self.save_state(kmeans, progress)
            if stopping:
                bar.close()
                place = f"mini-batch {step - before} of {len(batches)} in pass {number}"
                termination.stop(f"{place} is saved")
        bar.close()

    def save_state(self, kmeans, progress):
        """Write what the clustering needs to go on into STATE."""
        state = kmeans.state()  # which all processes must call
        if common.is_main_process():
            progress = {"progress": json.dumps(progress)}
            memory_file.save_state(self.output / STATE, state, progress)

    def log_pass(self, log, step, number, found):
        """Print and log what a pass found. Returns its numbers, {name: number}."""
        sizes = found["sizes"]
        occupied = [size for size in sizes if size]
        numbers = {
            "inertia": found["inertia"],
            "occupied_centroids": len(occupied),
            "largest_cluster": max(sizes),
            "smallest_cluster": min(occupied),
            "changed_samples": found["changed"],
            "restarted_centroids": found["restarted"],
        }
        log(step, memory=numbers)
        log.histogram(step, "memory/cluster_sizes", sizes)
        say(
            f"pass {number}: inertia {found['inertia']:.6g}, {len(occupied)} of {len(sizes)} "
            f"centroids occupied by {min(occupied)} to {max(sizes)} samples, "
            f"{found['changed']} samples changed, {found['restarted']} empty centroids restarted"
        )
        return numbers

    # ---- what it leaves --------------------------------------------------------------------------

    def leave(self, kmeans, found, progress, log):
        """Write the memory, the clusters as a table and a picture, and the record.

        Deletes the file of the unfinished clustering, STATE.
        """
        args, history, task = self.args, progress["history"], self.session.task
        facts = self.facts | {
            "num_centroid": args.num_centroid,
            "seed": args.seed,
            "samples": self.rows,
            "passes": len(history),
            "inertia": [entry["inertia"] for entry in history],
            "cluster_sizes": found["sizes"],
            "memory_init": args.memory_init,
            "memory_learning_rate": args.memory_learning_rate,
            "precision": self.record.precision,
            "data": self.identity.data,
        }
        facts = memory_file.save_memory(self.output / memory_file.FILE, kmeans.centroids, facts)
        log.figure(progress["step"], "memory/clusters", self.draw_clusters(found))
        log.close(progress["step"], {}, {})
        record = self.record
        record.steps, record.train_seconds = progress["step"], progress["seconds"]
        record.memory, record.finished = facts, True
        record.write(self.output)
        (self.output / STATE).unlink(missing_ok=True)
        say(
            f"a memory of {args.num_centroid} centroids for {task.name} is in "
            f"{self.output / memory_file.FILE}; their picture is {self.output / 'clusters.png'}"
        )

    def draw_clusters(self, found):
        """Write clusters.tsv and clusters.png. Returns the figure."""
        from training.cluster_picture import picture_of_clusters  # here, as it imports matplotlib

        points = found["points"]
        columns = {
            "index": self.features.indices,
            "label": self.features.tensors["labels"].numpy(),
            "cluster": found["assignment"],
            "x": points[:, 0],
            "y": points[:, 1],
        }
        table, task = pd.DataFrame(columns), self.session.task
        with common.atomic_path(self.output / "clusters.tsv") as path:
            table.to_csv(path, sep="\t", index=False, float_format="%.6g")
        centroids, sizes, share = found["centroids"].numpy(), found["sizes"], found["explained"]
        figure = picture_of_clusters(table, centroids, sizes, share, task.labels, task.name)
        with common.atomic_path(self.output / "clusters.png") as path:
            figure.savefig(path, format="png", dpi=150)
        return figure
