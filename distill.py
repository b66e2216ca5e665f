"""One loop for every method, and the loss terms that all of them share.

A method is a dict of weighted, named loss terms, name -> Term(weight, loss); a script supplies it and calls
`runs.run`, which loads models and data and drives the Loop. A batch flows like this:

    indices of the global mini-batch -> this process's rows -> student(batch), teacher(batch) under no_grad
    -> Outputs(logits (B, K), features (B, W, D)) of the global mini-batch -> each Term's scalar -> Σ weight * term

Under several processes the outputs of all of them are gathered before the losses (see `GatherRows`), so every term
is that of the global mini-batch, whatever it relates, and no term needs to know about processes.
"""
import contextlib
import math
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

import cka
from training import records
from training.batches import MiniBatch, flat, windows
from training.checkpoints import Meter, State

# ---- losses and the terms that every distillation shares ----------------------------------------------------------

class Term(NamedTuple):
    """A named part of the total: loss(s, t, batch) -> scalar, with s and t the Outputs of student and teacher.

    batch: the MiniBatch's targets; terms may leave there what others of the same mini-batch share. module: what of the
    loss is trained with the student, in checkpoints but not in the saved student.
    """
    weight: float
    loss: object
    needs_teacher: bool = True
    needs_features: bool = False
    module: torch.nn.Module | None = None


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


def global_terms(weight, gamma_m, memories, mask_padding=False):
    """G, weight * (F_MM + γ_m F_E + (1-γ_m) F_C), as three terms (Eq. 10); F_E and F_C share their matrix products.

    memories: a memory.Memories, for the penultimate layers; None where the weight is 0.
    """
    def relations(s, t, batch):
        if "relations" not in batch:
            flat_s, flat_t = (flat(outputs.features[-1], batch, memories.length, mask_padding) for outputs in (s, t))
            batch["relations"] = (cka.memory_relations(flat_s, memories.student),
                                  cka.memory_relations(flat_t, memories.teacher))
        return batch["relations"]

    def feature_to_memory(psi):
        def loss(s, t, batch):
            relations_s, relations_t = relations(s, t, batch)
            return cka.mean_squared_difference(relations_s[psi], relations_t[psi])
        return loss

    def memory_structure(s, t, batch):
        return cka.memory_structure_loss(memories.student, memories.teacher, memories.estimator)

    return {
        "F_MM": Term(weight, memory_structure, needs_teacher=False, module=memories),
        "F_E": Term(weight * gamma_m, feature_to_memory("euclidean"), needs_features=True, module=memories),
        "F_C": Term(weight * (1 - gamma_m), feature_to_memory("cosine"), needs_features=True, module=memories),
    }


# ---- the loop -----------------------------------------------------------------------------------------------------

def relation_differences(s, t, mask):
    """RD between samples and between tokens, Euclidean and cosine (Eq. 12-13), of the last pair of layers."""
    h_s, h_t = s.features[-1].detach(), t.features[-1]
    inter = [h_s.flatten(1), h_t.flatten(1)] if mask is None else [
        (h * mask.unsqueeze(-1)).flatten(1) for h in (h_s, h_t)]  # (B, W, D) -> (B, W*D)
    return {f"rd_{where}_{psi}": cka.relation_difference(*pair, psi, mask=rows).item()
            for where, pair, rows in (("inter", inter, None), ("intra", (h_s, h_t), mask))
            for psi in ("euclidean", "cosine")}


def freeze_unused(model, batch):
    """Take out of the training what no output depends on, as XLNet's mask embedding: DDP would wait for its gradient.

    In eval mode, so that no random numbers are drawn.
    """
    model.eval()
    model(**batch.inputs(model)).logits.sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


class Loop:
    """The training loop of one run: each optimizer step takes a window of mini-batches through the terms.

    terms: name -> Term; those of weight 0 are not computed. pairs: hidden_states indices (student's, teacher's) to
    align. log(step, group=scalars, ...), save(state) and evaluate() are called at their steps.
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
        meter = Meter([*self.terms, "total"], accelerator.device)
        modules = dict.fromkeys(term.module for term in self.terms.values() if term.module is not None)
        losses = torch.nn.ModuleList(modules)  # every process computes its whole gradient: not for DDP
        self.state = State(args, accelerator, student, losses, self.total_steps, meter)
        if accelerator.num_processes > 1:
            freeze_unused(student, MiniBatch(accelerator, features, torch.arange(1), trim=False))
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
                values["total"] = sum(term.weight * values[name] for name, term in self.terms.items())
                self.accelerator.backward(values["total"] / len(window))
            state.meter.add(state.step + 1, values)
            state.examples += len(indices)
            if observe and last and t is not None:
                relations = relation_differences(s, t, batch.targets["attention_mask"] if self.mask_padding else None)
        # the losses' own parameters are not clipped: they would take from the student's share, and Adam rescales them
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), self.args.max_grad_norm or math.inf)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if not state.optimizer.step_was_skipped:  # by fp16's loss scaler, after an overflow
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
            paused = time.perf_counter()
            if observe:
                state.meter.check()
                means = state.meter.read()
                bar.set_postfix(loss=f"{means['total']:.4f}")
                log(step, loss=means, relation=relations,
                    training={"epoch": round(epoch, 4), "learning_rate": rate, "grad_norm": float(norm),
                              "examples_per_second": state.examples / state.seconds},
                    dev=evaluate() if args.evaluate_during_training and step < self.total_steps else {})
                self.student.train()
            if step % args.save_steps == 0 and step < self.total_steps:
                state.meter.check()
                save(state)
            started += time.perf_counter() - paused  # logging, evaluating and saving are no training time
        bar.close()
