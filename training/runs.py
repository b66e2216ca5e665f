"""A run: what a script does after its flags. Train, evaluate, predict, and leave the records
behind.
"""

import contextlib
import json
import os
import sys
import time
import weakref
from pathlib import Path

import accelerate
import huggingface_hub
import numpy as np
import pandas as pd
import torch
import transformers

import common
import memory
import termination
import utils_glue
from common import UserError, say
from distill import Loop, needs_of, task_loss
from glue_data.submission import write_submission
from glue_data.tasks import TASKS, has_file
from seeds import mix
from training import allocation, checks, classes, flags, logs, models, records, results_csv
from training.batches import MiniBatch, Rows
from training.checkpoints import (
    checkpoint_to_resume,
    checkpoints,
    other_settings,
    restore,
    run_settings,
    save_checkpoint,
    step_of,
)
from training.linear import quick_linears
from training.teacher import Teacher
from training.teacher_cache import TeacherCache, entries
from training.tokenizer import load_tokenizer


def run(args, method, terms, check=None, loop=None, layers="penultimate"):
    """Train, evaluate and predict as the flags say. Returns the exit code.

    method: the name under which the run appears in tables. terms(args, memories) -> {name:
    distill.Term}, where memories is the memory.Memories of a method with a global structure, else
    None. check(args, student, teacher) refuses models that the method cannot take, with a
    UserError. loop: what makes the distill.Loop that trains, of that class's arguments; by default
    the class itself. layers: which the terms compare, see models.layer_pairs.
    """
    with prepared(args) as task:
        return Run(args, task, method, terms, check, loop or Loop, layers).main()


@contextlib.contextmanager
def prepared(args):
    """Check the flags, quieten the libraries, hold the output folder; yields the task; leaves the
    process group.
    """
    task = checks.check_arguments(args)
    args.task_name = task.name
    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    models.mask_without_waiting()
    allocation.keep_freed_memory()
    if not args.do_train:
        models.find_trained(args.output_dir)
    with common.lock_output_dir(args.output_dir):
        try:
            yield task
        except termination.Terminated:
            leave_group()
            raise
    leave_group()


def sharing_a_gpu(no_cuda):
    """What accelerate is told where processes share a GPU: NCCL takes one process for each, gloo
    several.
    """
    processes, cards = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if no_cuda or not 0 < cards < processes:
        return []
    own = int(os.environ["LOCAL_RANK"])
    os.environ["LOCAL_RANK"] = str(
        own % cards
    )  # accelerate takes it for the number of the process's GPU
    if own == 0:
        say(
            f"note: {processes} processes share {cards} of this machine's GPUs, and exchange what "
            "they have over gloo, not NCCL: with as many processes as GPUs a run is faster"
        )
    return [accelerate.InitProcessGroupKwargs(backend="gloo")]


def leave_group():
    """Leave the process group: else gloo's threads outlive the interpreter now and then, and abort
    it.
    """
    if torch.distributed.is_initialized():
        accelerate.PartialState().destroy_process_group()


class Run:
    """One run of one method on one task; `record` becomes its run.json."""

    def __init__(self, args, task, method, terms, check=None, loop=Loop, layers="penultimate"):
        precision = (
            "fp16" if args.fp16 else "bf16" if args.bf16 else None
        )  # None: what accelerate launch was told
        several = (
            int(os.environ.get("WORLD_SIZE", 1)) > 1
        )  # torchrun's; accelerate joins it on CPUs only when told
        try:
            self.accelerator = accelerate.Accelerator(
                mixed_precision=precision,
                cpu=args.no_cuda or (several and not torch.cuda.is_available()),
                dynamo_backend="inductor" if args.compile else None,
                kwargs_handlers=sharing_a_gpu(args.no_cuda),
            )
        except (ValueError, ImportError) as error:  # a precision that this device does not have
            raise UserError(
                f"this device does not take these settings ({error}): run without mixed precision, "
                "or on another device"
            ) from None
        self.args, self.task, self.method, self.terms, self.check = args, task, method, terms, check
        self.make_loop, self.layers = loop, layers
        self.output, self.began = Path(args.output_dir), time.perf_counter()
        self.ignores_padding = weakref.WeakKeyDictionary()  # by model
        cuda = self.accelerator.device.type == "cuda"
        self.record = records.provenance() | {
            "method": method,
            "seed": args.seed,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "arguments": dict(vars(args)),
            "finished": False,
        }

    def main(self):
        """The steps that the flags ask for; run.json says "finished" only after the last of them."""
        args = self.args
        log = self.train() if args.do_train else None
        results = self.evaluate_folder(self.output) if args.do_eval else {}
        for checkpoint in (
            checkpoints(self.output) if args.do_eval and args.eval_all_checkpoints else []
        ):
            say(f"{checkpoint.name}: {describe(self.evaluate_folder(checkpoint))}")
        if args.do_predict:
            self.write_predictions()
        if args.do_train and common.is_main_process():
            termination.hold()  # a run that is finished is not terminated any more
            names = [name for name in vars(args) if name in flags.hyperparameters()]
            log.close(
                self.record["steps"],
                {"method": self.method} | {k: getattr(args, k) for k in names},
                results,
            )
            self.record |= {
                "results": results,
                "wall_seconds": time.perf_counter() - self.began,
                "finished": True,
            }
            if args.results_csv:
                results_csv.append_result(args.results_csv, results_csv.result_row(self.record))
            self.write_record()
        say(
            f"{self.method} on {self.task.name}: {describe(results) or 'done'}; everything is in "
            f"{self.output}"
        )
        return 0

    def write_record(self):
        if common.is_main_process():
            common.write_json(self.output / "run.json", self.record)

    # ---- data ------------------------------------------------------------------------------------

    def features(self, split, tokenizer, most=None, task=None, data_dir=None):
        """The tokenised rows of a split, at most `most` of them; the main process reads, the others
        take its cache.
        """
        args = self.args
        with self.accelerator.main_process_first():
            return utils_glue.load_features(
                task or self.task,
                data_dir or args.data_dir,
                split,
                tokenizer,
                args.max_seq_length,
                args.cache_dir or None,
                args.overwrite_cache,
                most,
            )

    def test_sets(self):
        """What --do_predict predicts: (task, split, data folder); MNLI's model also does AX where
        its file is.
        """
        found = [(self.task, split, self.args.data_dir) for split in self.task.submissions]
        if self.task.name == "MNLI":
            ax, folder = TASKS["ax"], Path(self.args.data_dir)
            places = [
                place
                for place in (folder, folder.parent)
                if (place / ax.folder / ax.files["test"]).is_file()
            ]
            found += [(ax, "test", place) for place in places[:1]]
            if not places:
                say(
                    f"no {ax.folder}/{ax.files['test']} in {folder}: AX is left out of the "
                    "predictions"
                )
        return found

    def training_features(self, tokenizer):
        """The training rows; reads the other splits too, so that a bad row stops the run now and
        not at its end.
        """
        features = self.features("train", tokenizer, self.args.max_train_samples)
        evaluates = self.args.do_eval or self.args.evaluate_during_training
        for split in [s for s in self.task.files if s.startswith("dev") and evaluates]:
            self.features(split, tokenizer)
        for task, split, data_dir in self.test_sets() if self.args.do_predict else []:
            self.features(split, tokenizer, task=task, data_dir=data_dir)
        self.args.overwrite_cache = False  # done once
        return features

    def can_cut(self, model, features):
        """Whether padding may be cut off for this model: tried once, on the first rows of its own
        that have any.
        """
        plain = accelerate.utils.extract_model_from_parallel(
            model, keep_fp32_wrapper=True, keep_torch_compile=False
        )
        if self.ignores_padding.get(plain) is None:
            self.ignores_padding[plain] = models.ignores_padding(model, features.tensors)
            if self.ignores_padding[plain] is False:
                say(
                    f"note: {type(plain).__name__} reads padding as well, or minds how long rows "
                    "are, so nothing is cut off"
                )
        return self.ignores_padding[plain] is not False

    # ---- training --------------------------------------------------------------------------------

    def train(self):
        """Train from the start or from a checkpoint, and place the model. Returns the log, to be
        closed.
        """
        args, accelerator = self.args, self.accelerator
        transformers.set_seed(args.seed)
        tokenizer = load_tokenizer(args)
        features = self.training_features(tokenizer)
        teacher = (
            models.load_teacher(args, self.task, tokenizer) if models.has_teacher(args) else None
        )
        self.record |= {
            "data": {"train": features.source},
            "teacher": models.fingerprint_of_model(teacher) if teacher else None,
        }
        m_t = self.teacher_memory(teacher, tokenizer) if flags.needs_memory(args) else None
        settings = self.settings(features, tokenizer)
        before = common.read_json(self.output / "run.json")
        if self.is_trained(before, settings):
            say(f"the training in {self.output} is done; going on after it")
            self.record = before | {"arguments": dict(vars(args))}
            return logs.Log(self.output, args.run_file, before["steps"])
        checkpoint = checkpoint_to_resume(args, settings)
        accelerator.wait_for_everyone()  # all processes have looked before the main one clears the folder
        student = models.load_student(args, self.task, tokenizer, teacher, checkpoint)
        if not checkpoint and common.is_main_process():
            with common.atomic_path(self.output / "rehearsal", keep=False) as folder:
                models.check_saving(student, tokenizer, folder)
        student = student.to(accelerator.device)
        if self.check:
            self.check(args, student, teacher)
        can_cut = self.can_cut(student, features)
        if teacher:
            can_cut = self.can_cut(teacher.to(accelerator.device), features) and can_cut
        if teacher:
            self.score_teacher(teacher, tokenizer, features)
        if not args.compile:
            quick_linears(student, accelerator)
        pairs = models.layer_pairs(args, student, teacher, self.layers) if teacher else []
        observed = models.penultimate_pair(student, teacher) if teacher else None
        memories = (
            None
            if m_t is None
            else memory.Memories(
                m_t.to(accelerator.device),
                student.config.hidden_size,
                args.max_seq_length,
                args.seed,
                args.cka_estimator,
                args.student_memory_init,
            )
        )
        terms = self.terms(args, memories)
        teacher = teacher and Teacher(teacher, accelerator, args.compile)
        cache = (
            self.teacher_cache(teacher, tokenizer, features, terms, pairs, memories)
            if teacher
            else None
        )
        loop = self.make_loop(
            args,
            accelerator,
            student,
            teacher,
            terms,
            pairs,
            features.tensors,
            cache,
            observed,
            can_cut,
        )
        self.record["settings"] = settings
        if checkpoint:
            restore(loop.state, checkpoint)
            say(
                f"resuming from {checkpoint}: {loop.state.step} of {loop.total_steps} steps are "
                "done"
            )
        elif accelerator.process_index:
            # else all processes drop the same units
            torch.manual_seed(mix(args.seed, "process", accelerator.process_index))
        if common.is_main_process():
            self.take_folder(checkpoint, loop.state.step, before)
        log = logs.Log(self.output, args.run_file, loop.state.step)

        def save(state):
            tensors, progress = state.pack()
            if common.is_main_process():
                save_checkpoint(
                    self.output,
                    state.step,
                    lambda folder: models.save_model(student, tokenizer, folder),
                    tensors,
                    progress | {"settings": settings},
                    args.save_total_limit,
                )
            accelerator.wait_for_everyone()

        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        termination.hold()
        loop.run(log, save, evaluate=lambda: self.evaluate(loop.student, tokenizer)[0])
        if common.is_main_process():
            if memories:
                self.save_student_memory(memories, student, tokenizer)
            place_model(student, tokenizer, self.output)
        self.record |= {
            "trained": True,
            "steps": loop.state.step,
            "train_seconds": loop.state.seconds,
            "examples_per_second": loop.state.examples / max(loop.state.seconds, 1e-9),
            "peak_memory_mib": peak_memory(accelerator.device),
            "parameters": sum(p.numel() for p in student.parameters()),
        }
        self.write_record()
        accelerator.wait_for_everyone()
        termination.release()
        return log

    def is_trained(self, before, settings):
        """True where a run of these settings was cut off after its training."""
        if not before.get("trained") or before["finished"]:
            return False
        then = records.as_of_today(before["settings"])
        if then != settings and not self.args.overwrite_output_dir:
            raise other_settings(self.output, then, settings)
        return then == settings

    def take_folder(self, checkpoint, step, before):
        """Make the output folder this run's: what comes after its checkpoint goes, and all of
        another run.
        """
        own = checkpoint is not None and checkpoint.parent.resolve() == self.output.resolve()
        if own:
            self.record["started"] = before.get("started", self.record["started"])
        else:
            clear(self.output)
        for path in checkpoints(self.output):
            if not own or step_of(path) > step:
                common.remove_folder(path)
        self.write_record()

    def settings(self, features, tokenizer):
        """All that decides what is trained, as JSON keeps it: a resumed run must have the same."""
        settings = run_settings(self.args) | {
            "method": self.method,
            "training data": features.source["sha256"],
            "teacher": self.record["teacher"],
            "tokenizer": utils_glue.tokenizer_fingerprint(tokenizer),
            "processes": self.record["processes"],
            "precision": self.record["precision"],
        }
        if not models.has_teacher(self.args):
            settings["model_name_or_path"] = self.args.model_name_or_path
        if getattr(self.args, "teacher_cache", None):
            settings["teacher cache"] = True
        if "teacher_memory" in self.record:
            settings["teacher memory"] = self.record["teacher_memory"]["sha256"]
        return json.loads(json.dumps(settings))

    def memory_facts(self, model, tokenizer):
        """What a memory of the model's penultimate features must share with the runs that use it."""
        return {
            "task": self.task.name,
            "teacher": self.record["teacher"],
            "tokenizer": utils_glue.tokenizer_fingerprint(tokenizer),
            "layer": model.config.num_hidden_layers - 1,
            "max_seq_length": self.args.max_seq_length,
            "hidden_size": model.config.hidden_size,
            "mask_padding": self.args.mask_padding,
        }

    def teacher_memory(self, teacher, tokenizer):
        """The centroids (C, W*D_t) of --teacher_memory_path, refused where they are not of this
        teacher and task.
        """
        path = memory.find_memory(self.args.teacher_memory_path)
        m_t, facts = memory.load_memory(path, self.memory_facts(teacher, tokenizer))
        self.record["teacher_memory"] = facts | {"sha256": common.sha256_of_file(path)}
        return m_t

    def teacher_cache(self, teacher, tokenizer, features, terms, pairs, memories):
        """What the terms need of the teacher, in the files of --teacher_cache; None without the
        flag.
        """
        args, needs = self.args, needs_of(terms)
        if not (args.teacher_cache and needs):
            return None
        facts = {
            "format": 1,
            "task": self.task.name,
            "teacher": self.record["teacher"],
            "configuration": models.fingerprint_of_config(teacher.model.config),
            "data": features.source["sha256"],
            "rows": len(features.indices),
            "tokenizer": utils_glue.tokenizer_fingerprint(tokenizer),
            "max_seq_length": args.max_seq_length,
            "precision": self.record["precision"],
        }
        wanted = entries(
            needs,
            [layer for _, layer in pairs],
            teacher.model.config,
            args,
            memories,
            self.record.get("teacher_memory", {}).get("sha256", ""),
        )
        cache = TeacherCache(args.teacher_cache, facts, len(features.indices), wanted)
        self.record["teacher_cache"] = sorted(str(cache.path(name)) for name in cache.files)
        return cache.complete(
            teacher,
            features.tensors,
            args.per_gpu_train_batch_size,
            args.save_steps,
            args.dataloader_num_workers,
            self.can_cut(teacher.model, features),
        )

    def save_student_memory(self, memories, student, tokenizer):
        """M_s in a file of its own, for analysis."""
        facts = self.memory_facts(student, tokenizer) | {
            "student": models.fingerprint_of_model(student),
            "num_centroid": len(memories.student),
            "teacher_memory": self.record["teacher_memory"]["sha256"],
        }
        memory.save_memory(self.output / "student_memory.safetensors", memories.student, facts)

    # ---- evaluation ------------------------------------------------------------------------------

    def score_teacher(self, teacher, tokenizer, training):
        """Score the teacher on dev, or without a dev file on the first training rows; refuse
        classes in another order.

        Another order is refused where it fits training rows as well: WNLI's dev set contradicts its
        training set, so that a teacher which learnt that by heart does better upside down there.
        """
        args, task = self.args, self.task
        some = training._replace(
            tensors={key: value[:1000] for key, value in training.tensors.items()},
            indices=training.indices[:1000],
        )
        has_dev = has_file(task, args.data_dir, "dev")
        rows = self.features("dev", tokenizer, args.max_eval_samples) if has_dev else some
        where = f"{len(rows.indices)} rows of {rows.source['file']}"
        logits, labels = (
            self.teacher_logits(teacher, tokenizer, rows),
            rows.tensors["labels"].numpy(),
        )
        problem = classes.other_meaning(
            task,
            args.model_name_or_path,
            logits,
            labels,
            where,
            getattr(teacher, "was_in_order", None),
        )
        if problem and rows is not some and np.isfinite(logits).all():
            there = self.teacher_logits(teacher, tokenizer, some), some.tensors["labels"].numpy()
            problem = problem if classes.other_meaning(task, "", *there, "") else None
        if problem:
            raise UserError(problem)
        metrics = utils_glue.compute_metrics(
            task, utils_glue.predictions_from_logits(task, logits), labels
        )
        self.record["teacher_scores"] = {
            "file": rows.source["file"],
            "rows": len(rows.indices),
        } | metrics
        say(f"the teacher on {where}: {describe(metrics)}")
        if classes.no_better_than_constant(task, logits, labels):
            say(
                "warning: that is not clearly better than "
                f"{classes.constant_answer(task, labels)}, so the teacher has little to teach"
            )

    def teacher_logits(self, teacher, tokenizer, rows):
        """The teacher's logits (N, K) of these rows, kept for the next run beside the tokenised
        features.
        """
        path, fingerprint = utils_glue.logits_cache(
            self.task,
            rows,
            self.record["teacher"],
            models.fingerprint_of_config(teacher.config),
            utils_glue.tokenizer_fingerprint(tokenizer),
            self.args.max_seq_length,
            self.record["device"],
            self.args.cache_dir or None,
        )
        found = utils_glue.read_tensors(path, fingerprint) if common.is_main_process() else None
        found = accelerate.utils.broadcast_object_list([found and found[0]["logits"].clone()])[0]
        if found is None:
            found = torch.from_numpy(self.predict(teacher, rows))
            if common.is_main_process():
                utils_glue.write_tensors(path, fingerprint, {"logits": found}, {})
        return found.numpy()

    def predict(self, model, features):
        """Logits (N, K) of a split, as a float64 array; every process computes a share and has them
        all.

        The longest rows come first, so that those of a mini-batch are of like length.
        """
        model.eval()
        size = self.args.per_gpu_eval_batch_size * self.accelerator.num_processes
        order = features.tensors["attention_mask"].sum(1).argsort(descending=True, stable=True)
        rows = Rows(
            features.tensors,
            self.can_cut(model, features),
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        with torch.no_grad():
            logits = [
                MiniBatch(rows[indices], self.accelerator.device, rows.world).forward(model).logits
                for indices in common.progress(
                    order.split(size), desc="evaluating", leave=False, unit="batch"
                )
            ]
        return torch.cat(logits)[order.argsort().to(logits[0].device)].double().cpu().numpy()

    def evaluate(self, model, tokenizer):
        """Dev metrics by GLUE's names (of MNLI's second dev set with _mm), and a table of
        predictions per split.
        """
        results, tables = {}, {}
        for split in [s for s in self.task.files if s.startswith("dev")]:
            features = self.features(split, tokenizer, self.args.max_eval_samples)
            logits, labels = self.predict(model, features), features.tensors["labels"]
            predictions = utils_glue.predictions_from_logits(self.task, logits)
            metrics = utils_glue.compute_metrics(self.task, predictions, labels.numpy())
            targets = labels if self.task.labels else labels.double()
            metrics["eval_loss"] = task_loss(torch.from_numpy(logits), targets).item()
            results |= {name + split.removeprefix("dev"): value for name, value in metrics.items()}
            columns = {
                "index": features.indices,
                "label": labels.numpy(),
                "prediction": predictions,
            }
            tables[split] = pd.DataFrame(
                columns | {f"logit_{k}": column for k, column in enumerate(logits.T)}
            )
        return results, tables

    def evaluate_folder(self, folder):
        """Evaluate a saved model as a stranger would load it, in full precision; results go into
        its folder.
        """
        model, tokenizer = models.load_trained(self.args, self.task, folder)
        results, tables = self.evaluate(model.to(self.accelerator.device), tokenizer)
        if common.is_main_process():
            common.write_json(folder / "eval_results.json", {"task": self.task.name, **results})
            with common.atomic_path(folder / "eval_results.txt") as path:
                path.write_text(
                    "".join(f"{key} = {value}\n" for key, value in results.items()),
                    encoding="utf-8",
                )
            for split, table in tables.items():
                with common.atomic_path(folder / f"{split}_predictions.tsv") as path:
                    table.to_csv(path, sep="\t", index=False)
        return results

    def write_predictions(self):
        """The leaderboard files of the task's test sets, in submission/ of the output folder."""
        model, tokenizer = models.load_trained(self.args, self.task, self.output)
        model.to(self.accelerator.device)
        for task, split, data_dir in self.test_sets():
            features = self.features(
                split, tokenizer, self.args.max_predict_samples, task, data_dir
            )
            predictions = utils_glue.predictions_from_logits(task, self.predict(model, features))
            if common.is_main_process():
                file = self.output / "submission" / task.submissions[split]
                write_submission(file, task, split, features.indices, predictions)
                say(f"wrote {file}")


def peak_memory(device):
    """The most memory that this process has held, in MiB: on a GPU what was allocated there since
    the last reset; on a CPU the resident set of the whole process since its start, with Python, the
    libraries and the reading of the data.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource  # here, as Windows has none

    unit = (
        1 if sys.platform == "darwin" else 2**10
    )  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def describe(results):
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in results.items())


def place_model(model, tokenizer, output):
    """The trained model in the output folder itself, file by file; config.json last makes it
    loadable.
    """
    with common.atomic_path(output / "trained-model") as folder:
        models.save_model(model, tokenizer, folder)
    for file in sorted(
        (output / "trained-model").iterdir(), key=lambda file: file.name == "config.json"
    ):
        common.move(file, output / file.name)
    common.remove_folder(output / "trained-model")


def clear(output):
    """Remove an earlier run's files, but for its checkpoints, from the output folder; of links, the
    links alone.
    """
    for pattern in (
        "run.json",
        "config.json",
        "model.safetensors",
        "train_log.jsonl",
        "eval_results.*",
        "dev*_predictions.tsv",
        "memory.safetensors",
        "student_memory.safetensors",
        "clusters.tsv",
        "clusters.png",
        "clustering.safetensors",
        "probe.jsonl",
    ):
        for file in output.glob(pattern):
            if file.is_symlink() or file.is_file():
                file.unlink()
    common.discard(output / "submission")
