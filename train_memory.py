"""Cluster a fine-tuned teacher's penultimate features over a whole training set: the memory of the global structure.

    python train_memory.py --model_type bert --model_name_or_path TEACHER --data_dir DATA_DIR --task_name RTE \\
      --do_lower_case --do_train --per_gpu_train_batch_size 32 --max_seq_length 128 --num_centroid 100 \\
      --memory_num_train_epochs 3 --output_dir MEMORY

k-means (Euclidean) with one pass of the teacher over the data per epoch. Give MEMORY to glue_with_cka_g.py and
glue_with_cka_ilg.py as --teacher_memory_path, with this teacher, task and --max_seq_length.
"""
import json
import math
import sys

import accelerate
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

import flags
import memory
import models
import records
import runs
from analysis.clusters import picture_of_clusters
from batches import MiniBatch, flat
from checkpoints import check_output, other_settings, run_settings
from records import UserError, cli, say

NO_USE = ("do_eval", "do_predict", "evaluate_during_training", "eval_all_checkpoints", "max_eval_samples",
          "max_predict_samples", "results_csv", "gradient_accumulation_steps", "learning_rate", "weight_decay",
          "adam_epsilon", "max_grad_norm", "max_steps", "warmup_steps", "student_num_hidden_layers",
          "save_total_limit", "per_gpu_eval_batch_size")


def memory_flags(parser):
    group = parser.add_argument_group("memory")
    add = group.add_argument
    add("--num_centroid", type=int, help="C, centroids. Default: the paper's, 300 for MNLI and QQP, else 100.")
    add("--memory_num_train_epochs", type=int, help="Passes over the training set at most; fewer when no sample "
        "changes its cluster. Default: --num_train_epochs, which is 3.")
    add("--memory_learning_rate", type=float, nargs="?", const=1.0, default=1.0, help="How far a centroid goes from "
        "where it is towards the mean of its samples, above 0 and up to 1. Default, and without a value: 1, Lloyd's "
        "k-means.")
    add("--memory_init", choices=memory.INITS, default="kmeans++", help="Start: kmeans++ or random on real features; "
        "normal is the released form, Gaussian with the features' mean and variance. Default kmeans++.")
    add("--per_gpu_memory_train_batch_size", "--per_device_memory_train_batch_size", type=int, help="Samples a process "
        "takes at a time; the memory is the same but for rounding. Default: --per_gpu_train_batch_size.")
    add("--mask_padding", action="store_true", help="Padded positions count as 0; for runs with --mask_padding.")


class Clustering(runs.Run):
    """A run of k-means; leaves memory.safetensors, clusters.tsv and .png, logs and run.json in the output folder."""

    def main(self):
        args = self.args
        tokenizer = models.load_tokenizer(args)
        features = self.features("train", tokenizer, args.max_train_samples)
        rows = len(features.indices)
        if args.num_centroid > rows:
            raise UserError(f"--num_centroid is {args.num_centroid}, but there are {rows} training samples to cluster: "
                            f"pass {rows} or less")
        self.teacher = models.load_teacher(args, self.task, tokenizer).to(self.accelerator.device)
        self.facts = self.memory_facts(self.teacher, tokenizer)
        self.tensors, self.state = features.tensors, self.output / "clustering.safetensors"
        settings = json.loads(json.dumps(run_settings(args) | self.facts | {
            "data": features.source["sha256"], "processes": self.record["processes"],
            "precision": self.record["precision"]}))
        progress, state = self.unfinished(settings)
        self.accelerator.wait_for_everyone()  # all processes have looked before the first clears the folder
        if not state and records.is_main_process():
            runs.clear(self.output)
        self.record |= {"data": {"train": features.source}, "teacher": self.facts["teacher"], "settings": settings}
        self.write_record()
        kmeans = self.kmeans(rows, state)
        log = records.Log(self.output, args.run_file, progress["step"])
        found, history = self.passes(kmeans, progress, log, rows)
        self.facts |= {"num_centroid": args.num_centroid, "seed": args.seed, "samples": rows, "passes": len(history),
                       "inertia": [entry["inertia"] for entry in history], "cluster_sizes": found["sizes"],
                       "memory_init": args.memory_init, "memory_learning_rate": args.memory_learning_rate,
                       "precision": self.record["precision"], "data": features.source["sha256"]}
        if records.is_main_process():
            self.leave(kmeans, found, features, log, step=len(history) * self.batches(rows))
        return 0

    def unfinished(self, settings):
        """Progress and tensors of a clustering that was cut off, or a fresh progress and None."""
        args = self.args
        check_output(args)
        if isinstance(args.resume_from_checkpoint, str):
            raise UserError(f"--resume_from_checkpoint {args.resume_from_checkpoint}: train_memory.py goes on from "
                            "what is in its own --output_dir; leave the value out")
        fresh = {"settings": settings, "step": 0, "history": []}
        if not self.state.is_file() or records.read_json(self.output / "run.json").get("finished"):
            if args.resume_from_checkpoint:
                raise UserError(f"--resume_from_checkpoint: there is no unfinished clustering in {self.output}")
            return fresh, None
        try:
            with safe_open(self.state, framework="pt") as file:
                progress = json.loads(file.metadata()["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.state} is damaged ({type(error).__name__}: {error}): delete it to start "
                            "afresh") from None
        if progress["settings"] == settings:
            say(f"going on after {progress['step']} mini-batches, in pass {len(progress['history']) + 1}")
            return progress, tensors
        if args.overwrite_output_dir:
            return fresh, None
        raise other_settings(self.state, progress["settings"], settings)

    # ---- features --------------------------------------------------------------------------------------------------

    def batches(self, rows):
        """Mini-batches in a pass."""
        return math.ceil(rows / (self.args.per_gpu_memory_train_batch_size * self.record["processes"]))

    def rows_of(self, indices):
        """The teacher's features of samples, one row each: (B,) -> (B, W*D) float32."""
        args = self.args
        batch = MiniBatch(self.accelerator, self.tensors, indices, trim=args.mask_padding, alone=True)
        with torch.no_grad(), self.accelerator.autocast():
            (h,) = batch.forward(self.teacher, (self.facts["layer"],)).features  # (B, W, D)
        return flat(h.float(), batch.targets, args.max_seq_length, args.mask_padding)

    def kmeans(self, rows, state):
        """The KMeans to start with, or to go on with from its saved tensors."""
        args, accelerator = self.args, self.accelerator
        if state:
            start = state["centroids"]
        else:
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(args.seed))
            chosen = order[:memory.SAMPLE * args.num_centroid].sort().values.split(args.per_gpu_memory_train_batch_size)
            sample = torch.cat([self.rows_of(indices).cpu() for indices in records.progress(
                chosen, desc="sample for the start", unit="batch", leave=False)])
            start = memory.start_centroids(sample, args.num_centroid, args.memory_init, args.seed)
        start = accelerate.utils.broadcast(start.to(accelerator.device))
        kmeans = memory.KMeans(start, rows, args.memory_learning_rate, accelerator.process_index,
                               accelerator.num_processes, accelerator.reduce).to(accelerator.device)
        if state:
            kmeans.load(state)
        return kmeans

    # ---- passes ----------------------------------------------------------------------------------------------------

    def passes(self, kmeans, progress, log, rows):
        """Pass after pass until the last, or until no sample changes. Returns what the last found, and all numbers."""
        args, world = self.args, self.accelerator.num_processes
        batches = torch.arange(rows).split(args.per_gpu_memory_train_batch_size * world)
        history, last = progress["history"], args.memory_num_train_epochs
        for number in range(len(history) + 1, last + 1):
            before = (number - 1) * len(batches)
            step = max(progress["step"], before)
            bar = records.progress(total=len(batches), initial=step - before, desc=f"pass {number} of {last}",
                                   unit="batch")
            for batch in batches[step - before:]:
                mine = batch[self.accelerator.process_index::world]
                if len(mine):
                    kmeans.add(self.rows_of(mine), mine)
                step += 1
                bar.update()
                if step % args.logging_steps == 0:
                    log(step, running={"inertia_so_far": kmeans.inertia.item(),
                                       "occupied_so_far": (kmeans.counts > 0).sum().item()})
                if step % args.save_steps == 0 and step < before + len(batches):
                    self.save_state(kmeans, progress | {"step": step, "history": history})
            bar.close()
            found = kmeans.update()
            if not math.isfinite(found["inertia"]):
                raise UserError("the teacher's features are not finite numbers: run without --fp16, or mend the "
                                f"teacher {args.model_name_or_path}")
            history = [*history, self.log_pass(log, step, number, found)]
            if number == last or (found["changed"] == 0 and args.memory_learning_rate == 1):
                break
            self.save_state(kmeans, progress | {"step": step, "history": history})
        return found, history

    def save_state(self, kmeans, progress):
        kmeans.save(self.state, {"progress": json.dumps(progress)})

    def log_pass(self, log, step, number, found):
        """Say and log what a pass found. Returns its numbers."""
        sizes = found["sizes"]
        occupied = [size for size in sizes if size]
        numbers = {"inertia": found["inertia"], "occupied_centroids": len(occupied), "largest_cluster": max(sizes),
                   "smallest_cluster": min(occupied), "changed_samples": found["changed"],
                   "restarted_centroids": found["restarted"]}
        log(step, memory=numbers)
        log.histogram(step, "memory/cluster_sizes", sizes)
        say(f"pass {number}: inertia {found['inertia']:.6g}, {len(occupied)} of {len(sizes)} centroids occupied by "
            f"{min(occupied)} to {max(sizes)} samples, {found['changed']} samples changed, {found['restarted']} empty "
            "centroids restarted")
        return numbers

    def leave(self, kmeans, found, features, log, step):
        """Write the memory, the clusters as a table and a picture, and the record; then nothing is left to resume."""
        memory.save_memory(self.output / memory.FILE, kmeans.centroids, self.facts)
        labels = features.tensors["labels"].numpy()
        table = pd.DataFrame({"index": features.indices, "label": labels, "cluster": found["assignment"],
                              "x": found["points"][:, 0], "y": found["points"][:, 1]})
        with records.atomic_path(self.output / "clusters.tsv") as path:
            table.to_csv(path, sep="\t", index=False, float_format="%.6g")
        figure = picture_of_clusters(table, found["centroids"].numpy(), found["sizes"], found["explained"],
                                     self.task.labels, self.task.name)
        with records.atomic_path(self.output / "clusters.png") as path:
            figure.savefig(path, format="png", dpi=150)
        log.figure(step, "memory/clusters", figure)
        log.close(step, {}, {})
        self.record |= {"steps": step, "results": self.facts, "finished": True}
        self.write_record()
        self.state.unlink(missing_ok=True)
        say(f"a memory of {self.args.num_centroid} centroids for {self.task.name} is in {self.output / memory.FILE}; "
            f"their picture is {self.output / 'clusters.png'}")


def main(argv=None):
    parser = flags.Parser(__doc__)
    flags.shared_flags(parser)
    memory_flags(parser)
    args = parser.parse_args(argv)
    if idle := [name for name in NO_USE if getattr(args, name) != parser.get_default(name)]:
        say(f"note: k-means has no use for --{', --'.join(idle)}")
    if not args.do_train:
        raise UserError("nothing to do: train_memory.py only trains, so pass --do_train")
    if args.num_centroid is None:
        args.num_centroid = 300 if args.task_name.upper() in ("MNLI", "QQP") else 100
    if args.memory_num_train_epochs is None:
        args.memory_num_train_epochs = math.ceil(args.num_train_epochs)
    if args.per_gpu_memory_train_batch_size is None:
        args.per_gpu_memory_train_batch_size = args.per_gpu_train_batch_size
    if args.memory_learning_rate == 0:
        raise UserError("--memory_learning_rate must be above 0: at 0 no centroid ever moves")
    with runs.prepared(args) as task:
        return Clustering(args, task, "memory", None).main()


if __name__ == "__main__":
    sys.exit(cli(main))
