"""A run of k-means over a teacher's features: pass after pass, logged, saved, and left as a memory."""

import json
import time

import accelerate
import pandas as pd
import torch
from safetensors import SafetensorError

import common
import memory
import termination
from common import UserError, say
from training import logs, models, records, runs
from training.batches import MiniBatch, Rows, flat
from training.checkpoints import check_output, checkpoints, other_settings, run_settings
from training.teacher import Teacher
from training.tokenizer import load_tokenizer


class Clustering(runs.Run):
    """A run of k-means; leaves memory.safetensors, clusters.tsv and .png, logs and run.json in the
    output folder.
    """

    def __init__(self, args, task):
        super().__init__(args, task, "memory", None)
        self.state = self.output / "clustering.safetensors"  # of an unfinished run

    def main(self):
        args = self.args
        check_output(args, self.method)
        features = self.prepare()
        settings = self.clustering_settings(features)
        progress, tensors = self.unfinished(settings)
        self.accelerator.wait_for_everyone()  # all processes have looked before the first clears the folder
        if tensors is None and common.is_main_process():
            runs.clear(self.output)
            for path in checkpoints(self.output):
                common.remove_folder(path)
        self.record["settings"] = settings
        self.write_record()
        log = logs.Log(self.output, args.run_file, progress["step"])
        kmeans = self.kmeans(tensors)
        termination.hold()  # to the end: a memory that is finished is not terminated any more
        found = self.passes(kmeans, progress, log)
        if common.is_main_process():
            self.leave(kmeans, found, progress, features, log)
        return 0

    def prepare(self):
        """Load rows and teacher. Returns the training set's Features."""
        args = self.args
        tokenizer = load_tokenizer(args)
        features = self.features("train", tokenizer, args.max_train_samples)
        self.rows = len(features.indices)
        if args.num_centroid > self.rows:
            raise UserError(
                f"--num_centroid is {args.num_centroid}, but there are {self.rows} training "
                f"samples to cluster: pass {self.rows} or less"
            )
        teacher = models.load_teacher(args, self.task, tokenizer).to(self.accelerator.device)
        self.record |= {
            "data": {"train": features.source},
            "teacher": models.fingerprint_of_model(teacher),
        }
        self.facts = self.memory_facts(teacher, tokenizer)
        self.data = Rows(
            features.tensors, cut=args.mask_padding and self.can_cut(teacher, features)
        )
        self.teacher = Teacher(teacher, self.accelerator, args.compile)
        return features

    def clustering_settings(self, features):
        """All that decides what the memory becomes, as JSON keeps it: a resumed run must have the
        same.
        """
        return json.loads(
            json.dumps(
                run_settings(self.args)
                | self.facts
                | {
                    "data": features.source["sha256"],
                    "processes": self.record["processes"],
                    "precision": self.record["precision"],
                }
            )
        )

    def unfinished(self, settings):
        """Progress and tensors of a clustering that was cut off, or a fresh progress and None."""
        args = self.args
        if isinstance(args.resume_from_checkpoint, str):
            raise UserError(
                f"--resume_from_checkpoint {args.resume_from_checkpoint}: train_memory.py goes on "
                "from what is in its own --output_dir; leave the value out"
            )
        fresh = {"settings": settings, "step": 0, "seconds": 0.0, "history": []}
        if not self.state.is_file() or common.read_json(self.output / "run.json").get("finished"):
            if args.resume_from_checkpoint:
                raise UserError(
                    f"--resume_from_checkpoint: there is no unfinished clustering in {self.output}"
                )
            return fresh, None
        try:
            tensors, metadata = memory.load_state(self.state)
            progress = json.loads(metadata["progress"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            if args.overwrite_output_dir:
                return fresh, None
            raise UserError(
                f"{self.state} is damaged ({type(error).__name__}: {error}): delete it to start "
                "afresh"
            ) from None
        progress["settings"] = records.as_of_today(progress["settings"])
        if progress["settings"] == settings:
            say(
                f"going on after {progress['step']} mini-batches, in pass "
                f"{len(progress['history']) + 1}"
            )
            return progress, tensors
        if args.overwrite_output_dir:
            return fresh, None
        raise other_settings(self.state, progress["settings"], settings)

    # ---- features --------------------------------------------------------------------------------

    def items(self, batches):
        """The items of self.data for mini-batches of indices, prepared ahead."""
        return self.data.loader(
            batches, self.args.dataloader_num_workers, self.accelerator.device.type == "cuda"
        )

    def rows_of(self, item):
        """The teacher's features of the samples of an item, one row each: (B, W*D) float32."""
        args, batch = self.args, MiniBatch(item, self.accelerator.device)
        (h,) = self.teacher(batch, (self.facts["layer"],), logits=False).features  # (B, W, D)
        return flat(h.float(), batch.targets, args.max_seq_length, args.mask_padding)

    def sample(self, indices):
        """The features (S, W*D) of these samples, on the CPU."""
        chosen = indices.split(self.args.per_gpu_memory_train_batch_size)
        bar = common.progress(
            self.items(chosen), desc="sample for the start", unit="batch", leave=False
        )
        sample = torch.cat([self.rows_of(item).cpu() for item in bar])
        memory.check_finite(sample)
        return sample

    def start(self):
        """The centroids to start from (C, W*D), by the features of a random sample or the last
        mini-batch.
        """
        args = self.args
        if args.memory_init == "released":
            return self.released_start()
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(args.seed))
        sample = self.sample(order[: memory.SAMPLE * args.num_centroid].sort().values)
        return memory.start_centroids(sample, args.num_centroid, args.memory_init, args.seed)

    def released_start(self):
        """The authors' released start; with --mask_padding padded positions have no part in it."""
        args, batches = self.args, self.batches()
        last = self.sample(batches[-1])  # (B, W*D)
        shape = args.num_centroid, last.shape[1]
        if not args.mask_padding:
            return memory.released_centroids(last, len(batches), shape, args.seed)
        mask = self.data.features["attention_mask"].bool()  # (N, W)
        tokens = last.view(len(last), args.max_seq_length, -1)[mask[batches[-1]]]  # (tokens, D)
        start = memory.released_centroids(tokens, len(batches), shape, args.seed)
        return start * mask.any(0).repeat_interleave(tokens.shape[1])  # (W,) -> (W*D,); else 0

    def kmeans(self, tensors):
        """The KMeans to start with, or to go on with from its saved tensors."""
        accelerator = self.accelerator
        start = self.start() if tensors is None else tensors["centroids"]
        start = accelerate.utils.broadcast(start.to(accelerator.device))
        kmeans = memory.KMeans(
            start,
            self.rows,
            self.args.memory_learning_rate,
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.reduce,
            restarts=self.args.memory_init != "released",
        ).to(accelerator.device)
        if tensors is not None:
            kmeans.load(tensors)
        return kmeans

    # ---- passes ----------------------------------------------------------------------------------

    def passes(self, kmeans, progress, log):
        """Pass after pass until the last, or until no sample changes its cluster. Returns what the
        last one found.

        progress: step (mini-batches done), seconds, history (a dict of numbers per pass), settings;
        kept up to date.
        """
        args, last = self.args, self.args.memory_num_train_epochs
        agreement = termination.Agreement(self.accelerator, "clustering")
        while True:
            number = len(progress["history"]) + 1
            self.one_pass(kmeans, progress, log, number, agreement)
            found = kmeans.update()
            progress["history"].append(self.log_pass(log, progress["step"], number, found))
            if number == last or (found["changed"] == 0 and args.memory_learning_rate == 1):
                return found
            self.save_state(kmeans, progress)
            if agreement.asks(progress["step"]):
                termination.stop(f"pass {number} of {last} is saved")

    def batches(self):
        """The global mini-batches of a pass, tensors of indices."""
        size = self.args.per_gpu_memory_train_batch_size * self.accelerator.num_processes
        return torch.arange(self.rows).split(size)

    def one_pass(self, kmeans, progress, log, number, agreement):
        """Take the mini-batches of a pass that are not done yet; each process takes its rows of
        each.
        """
        args, world = self.args, self.accelerator.num_processes
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
        mine = [batch[self.accelerator.process_index :: world] for batch in batches[done:]]
        items = iter(self.items([indices for indices in mine if len(indices)]))
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
                termination.stop(
                    f"mini-batch {step - before} of {len(batches)} in pass {number} is saved"
                )
        bar.close()

    def save_state(self, kmeans, progress):
        kmeans.save(self.state, {"progress": json.dumps(progress)})

    def log_pass(self, log, step, number, found):
        """Say and log what a pass found. Returns its numbers."""
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
            f"centroids occupied by {min(occupied)} to {max(sizes)} samples, {found['changed']} "
            f"samples changed, {found['restarted']} empty centroids restarted"
        )
        return numbers

    # ---- what it leaves --------------------------------------------------------------------------

    def leave(self, kmeans, found, progress, features, log):
        """Write the memory, the clusters as a table and a picture, and the record; then nothing is
        left to resume.
        """
        from analysis.clusters import picture_of_clusters  # here, as it imports matplotlib

        args, history = self.args, progress["history"]
        facts = self.facts | {
            "num_centroid": args.num_centroid,
            "seed": args.seed,
            "samples": self.rows,
            "passes": len(history),
            "inertia": [entry["inertia"] for entry in history],
            "cluster_sizes": found["sizes"],
            "memory_init": args.memory_init,
            "memory_learning_rate": args.memory_learning_rate,
            "precision": self.record["precision"],
            "data": features.source["sha256"],
        }
        facts = memory.save_memory(self.output / memory.FILE, kmeans.centroids, facts)
        table = pd.DataFrame(
            {
                "index": features.indices,
                "label": features.tensors["labels"].numpy(),
                "cluster": found["assignment"],
                "x": found["points"][:, 0],
                "y": found["points"][:, 1],
            }
        )
        with common.atomic_path(self.output / "clusters.tsv") as path:
            table.to_csv(path, sep="\t", index=False, float_format="%.6g")
        figure = picture_of_clusters(
            table,
            found["centroids"].numpy(),
            found["sizes"],
            found["explained"],
            self.task.labels,
            self.task.name,
        )
        with common.atomic_path(self.output / "clusters.png") as path:
            figure.savefig(path, format="png", dpi=150)
        log.figure(progress["step"], "memory/clusters", figure)
        log.close(progress["step"], {}, {})
        self.record |= {
            "steps": progress["step"],
            "train_seconds": progress["seconds"],
            "memory": facts,
            "finished": True,
        }
        self.write_record()
        self.state.unlink(missing_ok=True)
        say(
            f"a memory of {args.num_centroid} centroids for {self.task.name} is in "
            f"{self.output / memory.FILE}; their picture is {self.output / 'clusters.png'}"
        )
