"""One loop for every method: loss terms, mini-batches, training, resuming, evaluation.

A method is a dict of weighted, named loss terms, name -> Term(weight, loss); a script supplies it and calls `run`.
A batch flows like this:

    indices of the global mini-batch -> this process's rows -> student(batch), teacher(batch) under no_grad
    -> Outputs(logits (B, K), features (B, W, D)) of the global mini-batch -> each Term's scalar -> Σ weight * term

Under several processes the outputs of all of them are gathered before the losses (see `GatherRows`), so every term
is that of the global mini-batch, whatever it relates, and no term needs to know about processes.
"""
import contextlib
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import accelerate
import huggingface_hub
import pandas as pd
import torch
import torch.nn.functional as F
import transformers

import cka
import flags
import models
import records
import utils_glue
from batches import MiniBatch, windows
from checkpoints import (
    Meter,
    State,
    checkpoint_to_resume,
    checkpoints,
    load_checkpoint,
    run_settings,
    save_checkpoint,
)
from records import say

# ---- losses and the terms that every distillation shares ----------------------------------------------------------

class Term(NamedTuple):
    """A named part of the total: loss(s, t, batch) -> scalar, with s and t the Outputs of student and teacher."""
    weight: float
    loss: object
    needs_teacher: bool = True
    needs_features: bool = False


def task_loss(logits, labels):
    """Cross-entropy, or the mean squared error where the task is a regression. logits: (B, K). Returns a scalar."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.mse_loss(logits.squeeze(-1), labels) if logits.shape[-1] == 1 else F.cross_entropy(logits, labels)


def kd_loss(z_s, z_t, temperature):
    """τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)), averaged over the batch (Eq. 2, with τ² as the authors released it).

    STS-B has one logit, for which that KL is 0 whatever the student says: there it is the mean squared error between
    the two logits, without τ. z_s, z_t: (B, K), z_t detached. Returns a scalar.
    """
    z_s, z_t = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z_s, z_t.detach()))
    if z_s.shape[-1] == 1:
        return F.mse_loss(z_s, z_t)
    log_p_s, log_p_t = F.log_softmax(z_s / temperature, -1), F.log_softmax(z_t / temperature, -1)
    return temperature ** 2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)


def vkd_terms(alpha, temperature):
    """VKD, α CE + (1-α) KD (Eq. 1), as two terms."""
    return {
        "ce": Term(alpha, lambda s, t, batch: task_loss(s.logits, batch["labels"]), needs_teacher=False),
        "kd": Term(1 - alpha, lambda s, t, batch: kd_loss(s.logits, t.logits, temperature)),
    }


def structure_term(weight, loss, mask_padding=False):
    """A term on features: loss(h_s, h_t, mask) -> scalar, averaged over the pairs of layers in use."""
    def on_outputs(s, t, batch):
        mask = batch["attention_mask"].bool() if mask_padding else None
        return torch.stack([loss(h_s, h_t, mask) for h_s, h_t in zip(s.features, t.features, strict=True)]).mean()
    return Term(weight, on_outputs, needs_features=True)


# ---- the loop -----------------------------------------------------------------------------------------------------

def relation_differences(s, t, mask):
    """RD between samples and between tokens, Euclidean and cosine (Eq. 12-13), of the last pair of layers."""
    h_s, h_t = s.features[-1].detach(), t.features[-1]
    inter = [h_s.flatten(1), h_t.flatten(1)] if mask is None else [
        (h * mask.unsqueeze(-1)).flatten(1) for h in (h_s, h_t)]  # (B, W, D) -> (B, W*D)
    return {f"rd_{where}_{psi}": cka.relation_difference(*pair, psi, mask=rows).item()
            for where, pair, rows in (("inter", inter, None), ("intra", (h_s, h_t), mask))
            for psi in ("euclidean", "cosine")}


class Loop:
    """The training loop of one run: each optimizer step takes a window of mini-batches through the terms.

    terms: name -> Term; those of weight 0 are not computed. pairs: hidden_states indices (student's, teacher's) to
    align. log(step, scalars), save(state) and evaluate() are called at their steps.
    """

    def __init__(self, args, accelerator, student, teacher, terms, pairs, features):
        self.args, self.accelerator, self.teacher, self.features = args, accelerator, teacher, features
        self.terms = {name: term for name, term in terms.items() if term.weight != 0}
        self.needs_teacher = any(term.needs_teacher for term in self.terms.values())
        self.needs_features = any(term.needs_features for term in self.terms.values())
        self.layers_s, self.layers_t = zip(*pairs, strict=True) if pairs else ((), ())
        self.mask_padding = getattr(args, "mask_padding", False)
        self.batch_size = args.per_gpu_train_batch_size * accelerator.num_processes
        self.rows = len(features["labels"])
        steps = math.ceil(math.ceil(self.rows / self.batch_size) / args.gradient_accumulation_steps)
        self.total_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
        meter = Meter([*self.terms, "loss"], accelerator.device)
        self.state = State(args, accelerator, student, self.total_steps, meter)
        self.student = accelerator.prepare(student)

    def outputs(self, batch, observe):
        """Outputs of student and teacher; no work that neither a term nor, at log steps, the relations need."""
        features = self.needs_features or (observe and self.teacher is not None)
        s = batch.forward(self.student, self.layers_s if features else ())
        if self.teacher is None or not (self.needs_teacher or observe):
            return s, None
        with torch.no_grad(), self.accelerator.autocast():
            return s, batch.forward(self.teacher, self.layers_t if features else ())

    def step(self, window, observe):
        """One optimizer step. Returns the gradient norm and, if `observe`, the relation differences."""
        state, relations = self.state, {}
        for i, indices in enumerate(window):
            batch = MiniBatch(self.accelerator, self.features, indices, trim=self.mask_padding)
            last = i == len(window) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.student):
                s, t = self.outputs(batch, observe and last)
                values = {name: term.loss(s, t, batch.targets) for name, term in self.terms.items()}
                values["loss"] = sum(term.weight * values[name] for name, term in self.terms.items())
                self.accelerator.backward(values["loss"] / len(window))
            state.meter.add(state.step + 1, values)
            state.examples += len(indices)
            if observe and last and t is not None:
                relations = relation_differences(s, t, batch.targets["attention_mask"] if self.mask_padding else None)
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), self.args.max_grad_norm or math.inf)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if not state.optimizer.step_was_skipped:
            state.scheduler.step()
        return norm, relations

    def run(self, log, save, evaluate):
        """Train from the state's step to the last one."""
        args, state = self.args, self.state
        self.student.train()
        bar = records.progress(total=self.total_steps, initial=state.step, unit="step", desc="training")
        started, seconds = time.perf_counter(), state.seconds
        plan = windows(self.rows, self.batch_size, args.gradient_accumulation_steps, args.seed, state.step,
                       self.total_steps)
        for step, epoch, window in plan:
            observe = step % args.logging_steps == 0 or step == self.total_steps
            rate = state.scheduler.get_last_lr()[0]
            norm, relations = self.step(window, observe)
            state.step, state.seconds = step, seconds + time.perf_counter() - started
            bar.update()
            if observe:
                state.meter.check()
                means = state.meter.read()
                bar.set_postfix(loss=f"{means['loss']:.4f}")
                log(step, {"epoch": round(epoch, 4), **means, "learning_rate": rate, "grad_norm": float(norm),
                           **relations, "examples_per_second": state.examples / state.seconds,
                           **(evaluate() if args.evaluate_during_training and step < self.total_steps else {})})
                self.student.train()
            if step % args.save_steps == 0 and step < self.total_steps:
                state.meter.check()
                save(state)
        bar.close()


# ---- a run: train, evaluate, predict ------------------------------------------------------------------------------

def start_accelerator(args):
    """Devices, processes and mixed precision, as the flags and the launcher say."""
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else None  # None: what accelerate launch was told
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)  # XLNet's mask embedding, poolers
    return accelerate.Accelerator(mixed_precision=precision, cpu=args.no_cuda, kwargs_handlers=[unused])


def load_split(args, task, split, tokenizer, most):
    """The tokenised rows of a split, at most `most` of them."""
    return utils_glue.load_features(task, args.data_dir, split, tokenizer, args.max_seq_length, args.cache_dir or None,
                                    args.overwrite_cache, most)


def train(args, task, method, terms, accelerator):
    """Train from the start or from a checkpoint, and save the model. Returns the facts for run.json, and the log."""
    transformers.set_seed(args.seed)
    tokenizer = models.load_tokenizer(args)
    features = load_split(args, task, "train", tokenizer, args.max_train_samples)
    for split in task.files:  # read now what is used later: a bad row must stop the run before the training
        if (split.startswith("dev") and args.do_eval) or (split.startswith("test") and args.do_predict):
            load_split(args, task, split, tokenizer, None)
    teacher = models.load_teacher(args, task, tokenizer).to(accelerator.device) if models.has_teacher(args) else None
    facts = {"data": {"train": features.source}, "teacher": records.fingerprint_of_model(teacher) if teacher else None,
             "processes": accelerator.num_processes, "precision": accelerator.mixed_precision}
    settings = run_settings(args) | {"method": method, "training data": features.source["sha256"],
                                     **{key: facts[key] for key in ("teacher", "processes", "precision")}}
    checkpoint = checkpoint_to_resume(args, settings)
    accelerator.wait_for_everyone()  # all processes have looked before the main one clears the folder
    student = models.load_student(args, task, tokenizer, teacher, checkpoint).to(accelerator.device)
    pairs = models.layer_pairs(args, student, teacher) if teacher else []
    loop = Loop(args, accelerator, student, teacher, terms, pairs, features.tensors)
    output = Path(args.output_dir)
    if checkpoint:
        loop.state.unpack(*load_checkpoint(checkpoint))
        say(f"resuming from {checkpoint}: {loop.state.step} of {loop.total_steps} steps are done")
    elif records.is_main_process():
        clear(output)
        records.write_json(output / "run.json", records.run_record(
            output, args, facts | {"method": method, "finished": False}))
    log = records.Log(output, args.run_file, loop.state.step)

    def save(state):
        tensors, progress = state.pack()
        if records.is_main_process():
            save_checkpoint(output, state.step, lambda folder: save_model(student, tokenizer, folder), tensors,
                            progress | {"settings": settings}, args.save_total_limit)
        accelerator.wait_for_everyone()

    loop.run(log, save, evaluate=lambda: evaluate(args, task, accelerator, loop.student, tokenizer)[0])
    if records.is_main_process():
        place_model(student, tokenizer, output)
    accelerator.wait_for_everyone()
    speed = loop.state.examples / max(loop.state.seconds, 1e-9)
    return facts | {"steps": loop.state.step, "train_seconds": loop.state.seconds, "examples_per_second": speed,
                    "parameters": sum(p.numel() for p in student.parameters())}, log


def predict(args, accelerator, model, features):
    """Logits (N, K) of a split, as a float64 array; every process computes a share and has them all."""
    model.eval()
    size = args.per_gpu_eval_batch_size * accelerator.num_processes
    with torch.no_grad():
        batches = torch.arange(len(features.indices)).split(size)
        logits = [MiniBatch(accelerator, features.tensors, indices, trim=True).forward(model).logits
                  for indices in records.progress(batches, desc="evaluating", leave=False, unit="batch")]
    return torch.cat(logits).double().cpu().numpy()


def evaluate(args, task, accelerator, model, tokenizer):
    """Dev metrics in GLUE's names (those of MNLI's second dev set end in _mm), and a table of predictions per split."""
    results, tables = {}, {}
    for split in [s for s in task.files if s.startswith("dev")]:
        features = load_split(args, task, split, tokenizer, args.max_eval_samples)
        logits, labels = predict(args, accelerator, model, features), features.tensors["labels"]
        predictions = utils_glue.predictions_from_logits(task, logits)
        metrics = utils_glue.compute_metrics(task, predictions, labels.numpy())
        metrics["eval_loss"] = task_loss(torch.from_numpy(logits), labels if task.labels else labels.double()).item()
        results |= {name + split.removeprefix("dev"): value for name, value in metrics.items()}
        tables[split] = pd.DataFrame({"index": features.indices, "label": labels.numpy(), "prediction": predictions}
                                     | {f"logit_{k}": column for k, column in enumerate(logits.T)})
    return results, tables


def evaluate_folder(args, task, accelerator, folder):
    """Evaluate a saved model as a stranger would load it, in full precision, and write the results into its folder."""
    model, tokenizer = models.load_trained(args, folder)
    results, tables = evaluate(args, task, accelerator, model.to(accelerator.device), tokenizer)
    if records.is_main_process():
        records.write_json(folder / "eval_results.json", {"task": task.name, **results})
        with records.atomic_path(folder / "eval_results.txt") as path:
            path.write_text("".join(f"{key} = {value}\n" for key, value in results.items()), encoding="utf-8")
        for split, table in tables.items():
            with records.atomic_path(folder / f"{split}_predictions.tsv") as path:
                table.to_csv(path, sep="\t", index=False)
    return results


def write_predictions(args, task, accelerator, folder):
    """The leaderboard files of the task's test sets, in submission/ of the output folder; MNLI's model also does AX."""
    model, tokenizer = models.load_trained(args, folder)
    model.to(accelerator.device)
    pairs = [(task, split) for split in task.submissions]
    if task.name == "MNLI":
        pairs.append((utils_glue.TASKS["ax"], "test"))
    for test_task, split in pairs:
        features = load_split(args, test_task, split, tokenizer, args.max_predict_samples)
        predictions = utils_glue.predictions_from_logits(task, predict(args, accelerator, model, features))
        if records.is_main_process():
            file = folder / "submission" / test_task.submissions[split]
            utils_glue.write_submission(file, test_task, split, features.indices, predictions)
            say(f"wrote {file}")


def run(args, method, terms):
    """All that a script does after its flags: train, evaluate, predict, and leave the records.

    method: the name under which the run appears in tables. terms: name -> Term.
    """
    flags.check_arguments(args)
    task = utils_glue.get_task(args.task_name)
    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    accelerator = start_accelerator(args)
    started, output = time.perf_counter(), Path(args.output_dir)
    with records.claimed(output):
        facts, log = train(args, task, method, terms, accelerator) if args.do_train else ({}, None)
        results = evaluate_folder(args, task, accelerator, output) if args.do_eval else {}
        for checkpoint in checkpoints(output) if args.do_eval and args.eval_all_checkpoints else []:
            say(f"{checkpoint.name}: {describe(evaluate_folder(args, task, accelerator, checkpoint))}")
        if args.do_predict:
            write_predictions(args, task, accelerator, output)
        facts |= {"method": method, "device": device_name(accelerator), "results": results, "finished": True,
                  "wall_seconds": time.perf_counter() - started}
        if records.is_main_process() and args.do_train:
            log.close(run_settings(args) | {"method": method}, results)
            run_record = records.run_record(output, args, facts)
            if args.results_csv:
                records.append_result(args.results_csv, records.result_row(run_record))
            records.write_json(output / "run.json", run_record)  # last: from here on the run is finished
    say(f"{method} on {task.name}: {describe(results) or 'done'}; everything is in {output}")
    return 0


def describe(results):
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in results.items())


def device_name(accelerator):
    """The device's name, as in "NVIDIA H200" or "cpu"."""
    return torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type


def save_model(model, tokenizer, folder):
    """A normal HuggingFace folder: config.json with the label names, model.safetensors, the tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def place_model(model, tokenizer, output):
    """The trained model in the output folder itself, file by file; config.json last makes it loadable."""
    with records.atomic_path(output / "trained-model") as folder:
        save_model(model, tokenizer, folder)
        for file in sorted(folder.iterdir(), key=lambda f: f.name == "config.json"):
            os.replace(file, output / file.name)
    (output / "trained-model").rmdir()


RUN_FILES = ("run.json", "config.json", "model.safetensors", "train_log.jsonl", "eval_results.json", "eval_results.txt")


def clear(output):
    """Remove an earlier run's files from the output folder."""
    for file in RUN_FILES:
        (output / file).unlink(missing_ok=True)
    for checkpoint in checkpoints(output):
        records.remove_folder(checkpoint)
