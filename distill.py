"""One loop for every method, and the loss terms that all of them share.

A method is a dict of weighted, named loss terms, name -> Term(weight, loss); a script supplies it
and calls
`runs.run`, which loads models and data and drives the Loop. A batch flows like this:

    indices of the global mini-batch -> this process's rows -> student(batch), teacher(batch) or what is cached of it
    -> Outputs(logits (B, K), features (B, W, D)) of the global mini-batch -> each Term's scalar -> Σ weight * term

Under several processes the outputs of all of them are gathered before the losses (see
`GatherRows`), so every term is that of the global mini-batch, whatever it relates, and no term
needs to know about processes.
"""

import contextlib
import math
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

import cka
import common
import termination
from common import UserError
from training.batches import MiniBatch, Rows, first_tokens, flat, windows
from training.checkpoints import Meter, State

# ---- losses and the terms that every distillation shares -----------------------------------------


class Term(NamedTuple):
    """A named part of the total: loss(s, t, batch) -> scalar, with s and t the Outputs of student
    and teacher.

    batch: the MiniBatch's targets; terms may leave there what others of the same mini-batch share.
    needs: what of the teacher, "logits", "features", what a cache may hold instead of these
    ("tokens" for I, "relations" for G), "attention", or None. module: what of the loss is trained
    with the student, in checkpoints but not in the saved student. fewest, fewest_tokens: with fewer
    samples in a mini-batch, or fewer tokens in a sample, it has never a value. padding: True where
    it reads the features at padded positions, as the paper's structures do; where no term does,
    mini-batches are cut to their longest row.
    """

    weight: float
    loss: object
    needs: str | None
    module: torch.nn.Module | None = None
    fewest: int = 1
    fewest_tokens: int = 1
    padding: bool = False


class Counted(NamedTuple):
    """What a term's loss may return instead of a scalar: the scalar, the mean of `of` values of
    which `undefined` had to be left out; undefined is a scalar tensor.
    """

    value: torch.Tensor
    undefined: torch.Tensor
    of: int


def needs_of(terms):
    """The set of what the terms of a weight above 0 need of the teacher."""
    return {term.needs for term in terms.values() if term.weight != 0} - {None}


def task_loss(logits, labels):
    """Cross-entropy, or the mean squared error where the task is a regression. logits: (B, K).
    Returns a scalar.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return (
        F.mse_loss(logits.squeeze(-1), labels)
        if logits.shape[-1] == 1
        else F.cross_entropy(logits, labels)
    )


def kd_loss(z_s, z_t, temperature):
    """τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)), averaged over the batch (Eq. 2, with τ² as the
    authors released it).

    STS-B has one logit, for which that KL is 0 whatever the student says: there it is the mean
    squared error between the two logits, without τ. z_s, z_t: (B, K), z_t detached. Returns a
    scalar.
    """
    z_s, z_t = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z_s, z_t.detach()))
    if z_s.shape[-1] == 1:
        return F.mse_loss(z_s, z_t)
    log_p_s, log_p_t = F.log_softmax(z_s / temperature, -1), F.log_softmax(z_t / temperature, -1)
    return temperature**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)


def vkd_terms(alpha, temperature):
    """VKD, α CE + (1-α) KD (Eq. 1), as two terms."""
    return {
        "ce": Term(alpha, lambda s, t, batch: task_loss(s.logits, batch["labels"]), None),
        "kd": Term(
            1 - alpha, lambda s, t, batch: kd_loss(s.logits, t.logits, temperature), "logits"
        ),
    }


def over_layers(found, values=1):
    """The Counted mean of [(loss, undefined)] over the pairs of layers in use, each the mean of so
    many values.
    """
    losses, undefined = zip(*found, strict=True)
    return Counted(torch.stack(losses).mean(), torch.stack(undefined).sum(), values * len(found))


def intra_term(weight, mask_padding, estimator="biased", reduction="mean_log"):
    """I, averaged over the pairs of layers in use."""
    options = {"estimator": estimator, "reduction": reduction, "count_undefined": True}

    def loss(s, t, batch):
        mask = batch["attention_mask"] if mask_padding else None
        if t.tokens:
            found = [
                cka.intra_feature_loss_to(tokens_t, h_s, mask, **options)
                for h_s, tokens_t in zip(s.features, t.tokens, strict=True)
            ]
        else:
            found = [
                cka.intra_feature_loss(h_s, h_t, mask, **options)
                for h_s, h_t in zip(s.features, t.features, strict=True)
            ]
        return over_layers(found, len(s.features[0]))

    return Term(
        weight,
        loss,
        "tokens",
        fewest_tokens=cka.FEWEST_TO_LEARN[estimator],
        padding=not mask_padding,
    )


def local_term(weight, mask_padding, estimator="biased", sample_features="flat"):
    """L, averaged over the pairs of layers in use; between first tokens alone if sample_features is
    "first".
    """
    first = sample_features == "first"

    def between(h_s, h_t, batch):
        if first:  # (B, W, D) -> (B, 1, D)
            h_s, h_t = (first_tokens(h, batch).unsqueeze(1) for h in (h_s, h_t))
        mask = batch["attention_mask"] if mask_padding and not first else None
        return cka.local_inter_feature_loss(
            h_s, h_t, mask, estimator=estimator, count_undefined=True
        )

    def loss(s, t, batch):
        return over_layers(
            [between(h_s, h_t, batch) for h_s, h_t in zip(s.features, t.features, strict=True)]
        )

    return Term(
        weight,
        loss,
        "features",
        fewest=cka.FEWEST_TO_LEARN[estimator],
        padding=not (mask_padding or first),
    )


def check_memory(memories):
    """Refuse a teacher memory whose structure says nothing: too few centroids, or all alike."""
    fewest, number = cka.FEWEST_TO_LEARN[memories.estimator], len(memories.teacher.rows)
    if number < fewest or not memories.teacher.structure.any():
        what = (
            f"{number} centroids" if number < fewest else f"{number} centroids that are all alike"
        )
        raise UserError(
            f"the teacher's memory has {what}, between which F_MM of the global structure has no "
            f"value: it needs {fewest} or more that differ, so make one with train_memory.py "
            "--num_centroid"
        )


def global_terms(weight, gamma_m, memories, mask_padding=False):
    """G, weight * (F_MM + γ_m F_E + (1-γ_m) F_C), as three terms (Eq. 10) that share their matrix
    products.

    memories: a memory.Memories, for the penultimate layers; None where the weight is 0.
    """
    if memories is not None:
        check_memory(memories)

    def to_memory(outputs, batch, m):
        return cka.memory_relations(
            flat(outputs.features[-1], batch, memories.length, mask_padding), m
        )

    def relations(s, t, batch):
        if "relations" not in batch:
            batch["relations"] = (
                to_memory(s, batch, memories.student),
                t.relations or to_memory(t, batch, memories.teacher),
            )
        return batch["relations"]

    def feature_to_memory(psi):
        def loss(s, t, batch):
            relations_s, relations_t = relations(s, t, batch)
            return cka.mean_squared_difference(relations_s[psi], relations_t[psi])

        return loss

    def memory_structure(s, t, batch):
        relations_s, _ = relations(s, t, batch)
        found = cka.memory_structure_loss_of(
            relations_s["gram"], memories.teacher, memories.estimator, count_undefined=True
        )
        return Counted(*found, 1)

    reads = {"needs": "relations", "module": memories, "padding": not mask_padding}
    return {
        "F_MM": Term(weight, memory_structure, **reads),
        "F_E": Term(weight * gamma_m, feature_to_memory("euclidean"), **reads),
        "F_C": Term(weight * (1 - gamma_m), feature_to_memory("cosine"), **reads),
    }


# ---- the loop ------------------------------------------------------------------------------------


def relation_differences(h_s, h_t, mask):
    """RD between samples and between tokens, Euclidean and cosine (Eq. 12-13). mask: (B, W') bool
    or None.
    """
    h_s, h_t = h_s.detach().float(), h_t.float()
    inter = (
        [h_s.flatten(1), h_t.flatten(1)]
        if mask is None
        else [(h * mask.unsqueeze(-1)).flatten(1) for h in (h_s, h_t)]
    )  # (B, W, D) -> (B, W*D)
    return {
        f"rd_{where}_{psi}": cka.relation_difference(*pair, psi, mask=rows).item()
        for where, pair, rows in (("inter", inter, None), ("intra", (h_s, h_t), mask))
        for psi in ("euclidean", "cosine")
    }


def freeze_unused(model, batch):
    """Take out of the training what no output depends on, as XLNet's mask embedding: DDP would wait
    for its gradient.

    In eval mode, so that no random numbers are drawn.
    """
    model.eval()
    model(**batch.arguments(model)).logits.sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


class Loop:
    """The training loop of one run: each optimizer step takes a window of mini-batches through the
    terms.

    teacher: a training.teacher.Teacher, None without one. cache: a TeacherCache with what the terms
    need of it, if any. terms: name -> Term; those of weight 0 are not computed. pairs:
    hidden_states indices (student's, teacher's) to align; observed: the pair whose relation
    differences are logged, by default the last. can_cut: False where the models themselves read
    padding. log(step, group=scalars, ...), save(state) and evaluate() are called at their steps.
    """

    def __init__(
        self,
        args,
        accelerator,
        student,
        teacher,
        terms,
        pairs,
        features,
        cache=None,
        observed=None,
        can_cut=True,
    ):
        self.args, self.accelerator, self.teacher, self.cache = args, accelerator, teacher, cache
        self.terms, self.needs = (
            {name: term for name, term in terms.items() if term.weight != 0},
            needs_of(terms),
        )
        self.layers_s, self.layers_t = zip(*pairs, strict=True) if pairs else ((), ())
        self.observed, self.attention = (
            observed or (pairs or [(None, None)])[-1],
            "attention" in self.needs,
        )
        self.mask_padding, self.told = getattr(args, "mask_padding", False), set()
        world = accelerator.num_processes
        self.cut = can_cut and not any(term.padding for term in self.terms.values())
        self.data = Rows(features, self.cut, accelerator.process_index, world, cache)
        self.whole = Rows(features, False, accelerator.process_index, world)
        self.lengths = features["attention_mask"].sum(1) if args.group_by_length else None
        self.batch_size = args.per_gpu_train_batch_size * world
        self.rows = len(features["labels"])
        steps = math.ceil(math.ceil(self.rows / self.batch_size) / args.gradient_accumulation_steps)
        self.total_steps = (
            args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
        )
        self.check_sizes(features["attention_mask"].shape[1])
        meter = Meter([*self.terms, "total"], accelerator.device)
        modules = dict.fromkeys(
            term.module for term in self.terms.values() if term.module is not None
        )
        losses = torch.nn.ModuleList(
            modules
        )  # every process computes its whole gradient: not for DDP
        self.state = State(args, accelerator, student, losses, self.total_steps, meter)
        if world > 1:
            freeze_unused(student, MiniBatch(Rows(features)[torch.arange(1)], accelerator.device))
        self.student = accelerator.prepare(student)

    def check_sizes(self, length):
        """Refuse mini-batches or samples so small that a term has never a value: that is another
        method's training.
        """
        size = min(self.batch_size, self.rows)
        for name, term in self.terms.items():
            if size < term.fewest:
                raise UserError(
                    f"a mini-batch has {size} samples here, but the loss term {name} relates the "
                    f"samples of a mini-batch and has no value for fewer than {term.fewest} "
                    "(accumulated mini-batches count one by one): pass --per_gpu_train_batch_size "
                    f"{term.fewest} or more, or take the term's weight away"
                )
            if length < term.fewest_tokens:
                raise UserError(
                    f"--max_seq_length is {length}, but the loss term {name} relates the tokens of "
                    f"a sample and has no value for fewer than {term.fewest_tokens}: pass more, or "
                    "take the term's weight away"
                )

    def compute_terms(self, s, t, batch):
        """The terms' values and their weighted total, by name, and those of them that are Counted."""
        found = {name: term.loss(s, t, batch.targets) for name, term in self.terms.items()}
        counted = {name: value for name, value in found.items() if isinstance(value, Counted)}
        values = found | {name: value.value for name, value in counted.items()}
        values["total"] = sum(term.weight * values[name] for name, term in self.terms.items())
        return values, counted

    def outputs(self, batch, observe):
        """Outputs of student and teacher for the terms and, to `observe`, the features of both (B,
        W, D), else None.
        """
        layered = bool(self.needs - {"logits", "attention"})
        layers_s, layers_t = (self.layers_s, self.layers_t) if layered else ((), ())
        observe = observe and self.teacher is not None
        seen_s, seen_t = ((layer,) if observe else () for layer in self.observed)
        s = batch.forward(self.student, layers_s + seen_s, self.attention)
        s, h_s = s._replace(features=s.features[: len(layers_s)]), s.features[len(layers_s) :]
        if self.teacher is None:
            return s, None, None
        if self.cache is None:
            t = self.teacher(batch, layers_t + seen_t, "logits" in self.needs, self.attention)
            t, h_t = t._replace(features=t.features[: len(layers_t)]), t.features[len(layers_t) :]
        else:
            t = self.cache.outputs(batch.teacher)
            cached = t.features and layers_t[-1:] == seen_t
            h_t = (
                t.features[-1:]
                if cached or not observe
                else self.teacher(batch, seen_t, logits=False).features
            )
        return s, t, (h_s[0], h_t[0]) if observe else None

    def uncut_features(self, indices):
        """Features (B, W, D) of both models for these samples with all of their padding, only to be
        observed.

        The logged relations are between whole rows, whatever a method computes. No random number of
        the training is drawn.
        """
        batch = MiniBatch(
            self.whole[indices], self.accelerator.device, self.accelerator.num_processes
        )
        layer_s, layer_t = self.observed
        gpus = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(gpus):
            (h_s,) = batch.forward(self.student, (layer_s,)).features
        (h_t,) = self.teacher(batch, (layer_t,), logits=False).features
        return h_s, h_t

    def step(self, window, observe):
        """One optimizer step on a list of items of Rows. Returns the gradient norm and, if
        `observe`, the relations.
        """
        state, relations = self.state, {}
        apart = self.cut and not self.mask_padding  # what is observed is not what is computed
        for i, item in enumerate(window):
            batch = MiniBatch(item, self.accelerator.device, self.accelerator.num_processes)
            last = i == len(window) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.student):
                s, t, seen = self.outputs(batch, observe and last and not apart)
                values, counted = self.compute_terms(s, t, batch)
                self.accelerator.backward(values["total"] / len(window))
            state.meter.add(state.step + 1, values, counted)
            state.examples += batch.size
            if observe and last and apart and self.teacher is not None:
                seen = self.uncut_features(batch.indices)
            if seen:
                mask = batch.targets["attention_mask"] if self.mask_padding else None
                relations = relation_differences(*seen, mask)
        # the losses' own parameters are not clipped: they would take from the student's share, and
        # Adam rescales them
        norm = self.accelerator.clip_grad_norm_(
            self.student.parameters(), self.args.max_grad_norm or math.inf
        )
        state.optimizer.step()
        state.optimizer.zero_grad()
        if not state.optimizer.step_was_skipped:  # by fp16's loss scaler, after an overflow
            state.scheduler.step()
        return norm, relations

    def say_undefined(self, step, most):
        """Say once of each term that most of its values were undefined. most: their names."""
        for name in most - self.told:
            common.say(
                f"warning: most values of the loss term {name} were undefined up to step {step} "
                "and left out: the rows of features were all alike, the teacher's or the "
                "student's, or too few"
            )
        self.told |= most

    def plan(self):
        """(step, epoch, mini-batches) from the state's step to the last one."""
        return windows(
            self.rows,
            self.batch_size,
            self.args.gradient_accumulation_steps,
            self.args.seed,
            self.state.step,
            self.total_steps,
            self.lengths,
        )

    def run(self, log, save, evaluate):
        """Train from the state's step to the last one."""
        args, state = self.args, self.state
        items = iter(
            self.data.loader(
                (indices for _, _, window in self.plan() for indices in window),
                args.dataloader_num_workers,
                self.accelerator.device.type == "cuda",
            )
        )
        self.student.train()
        bar = common.progress(
            total=self.total_steps, initial=state.step, unit="step", desc="training"
        )
        started, seconds = time.perf_counter(), state.seconds
        agreement = termination.Agreement(self.accelerator, "training")
        for step, epoch, window in self.plan():
            observe = step % args.logging_steps == 0 or step == self.total_steps
            rate = state.scheduler.get_last_lr()[0]
            norm, relations = self.step([next(items) for _ in window], observe)
            state.step, state.seconds = step, seconds + time.perf_counter() - started
            bar.update()
            paused = time.perf_counter()
            if observe:
                state.meter.check()
                means, undefined, most = state.meter.read()
                self.say_undefined(step, most)
                bar.set_postfix(loss=f"{means['total']:.4f}")
                log(
                    step,
                    loss=means,
                    relation=relations,
                    undefined=undefined,
                    training={
                        "epoch": round(epoch, 4),
                        "learning_rate": rate,
                        "grad_norm": float(norm),
                        "examples_per_second": state.examples / state.seconds,
                    },
                    dev=evaluate()
                    if args.evaluate_during_training and step < self.total_steps
                    else {},
                )
                self.student.train()
            stopping = step < self.total_steps and agreement.asks(
                step
            )  # after the last, what follows is saved
            if stopping or (step % args.save_steps == 0 and step < self.total_steps):
                state.meter.check()
                save(state)
            if stopping:
                bar.close()
                termination.stop(f"step {step} of {self.total_steps} is saved")
            started += (
                time.perf_counter() - paused
            )  # logging, evaluating and saving are no training time
        bar.close()
