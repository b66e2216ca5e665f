"""The training loop: from the rows of a mini-batch to the gradient, for every method.

    Loop.steps           indices of the global mini-batch -> this process's rows, tokenised
    Loop.forward, .ask   -> the Outputs of the student, and of the teacher or its cache:
                            logits (B, K), features (B, W, D) of each layer in use
    Loop.compute_terms   -> each Term's scalar (terms.py, cka.py) -> Σ weight * term
    Loop.take_step       -> the gradient, an optimizer step

The global mini-batch is spread over the processes of a run. Their outputs are gathered before the
losses (GatherRows in training/batches.py), so every term is computed on the whole of it, and no
term needs to know about processes. The gradient equals that of a single process, except for
rounding and dropout.
"""

import contextlib
import math
import time

import torch

import common
from common import UserError, say, termination
from relations import relation_differences, sample_differences
from terms import Counted, needs_of, read_for_memories
from training.agreement import Agreement
from training.batches import MiniBatch, Windows, flat, load, make_rows, windows
from training.checkpoints import Meter, State
from training.reading import leaves_weights_out


class Loop:
    """The training loop of one run. An optimizer step accumulates a window of mini-batches.

    teacher: a training.teacher.Teacher, or None. cache: a TeacherCache with what the terms need of
    the teacher, or None. terms: name -> Term; those of weight 0 are not computed. pairs: the hidden
    states to align, [(student's index, teacher's index)]. observed: the pair whose relation
    differences are logged, by default the last. features: the training rows, name -> tensor
    (N, ...), with a `mask` if structures leave padding out. can_cut: False if the models themselves
    read padding, so that none may be cut off. read_by_teacher: the same rows as the teacher reads
    them, if its tokenizer or length is not the student's; else None.
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
        read_by_teacher=None,
    ):
        self.args, self.accelerator, self.teacher, self.cache = args, accelerator, teacher, cache
        self.terms = {name: term for name, term in terms.items() if term.weight != 0}
        self.needs = needs_of(self.terms)
        self.observed = observed or (pairs or [(None, None)])[-1]
        reads_layers = bool(self.needs - {"logits", "attention"})
        self.layers_s, self.layers_t = (), ()
        if reads_layers:
            self.layers_s, self.layers_t = zip(*pairs, strict=True)
        self.told = set()  # the terms that a warning has named as undefined

        rank, self.world = accelerator.process_index, accelerator.num_processes
        read_padding = any(term.padding for term in self.terms.values()) and "mask" not in features
        self.cut = can_cut and not read_padding
        self.aligned = read_by_teacher is None
        self.data, self.whole = (
            make_rows(features, read_by_teacher, cut, rank, self.world, found)
            for cut, found in ((self.cut, cache), (False, None))
        )
        self.lengths = features["attention_mask"].sum(1) if args.group_by_length else None

        self.rows = len(features["labels"])
        self.batch_size = args.per_gpu_train_batch_size * self.world  # of all processes
        batches = math.ceil(self.rows / self.batch_size)
        steps = math.ceil(batches / args.gradient_accumulation_steps)
        self.total_steps = math.ceil(args.num_train_epochs * steps)
        if args.max_steps > 0:
            self.total_steps = args.max_steps
        self.check_sizes(features["attention_mask"].shape[1])
        self.check_alignment()

        meter = Meter([*self.terms, "total"], accelerator.device)
        modules = dict.fromkeys(
            term.module for term in self.terms.values() if term.module is not None
        )
        # not wrapped in DDP, as each process computes their whole gradient
        losses = torch.nn.ModuleList(modules)
        self.state = State(args, accelerator, student, losses, self.total_steps, meter)
        if self.world > 1:  # DDP fails on weights without a gradient unless it looks for them
            unused = leaves_weights_out(student, features)
            accelerator.ddp_handler.find_unused_parameters = unused
        self.student = accelerator.prepare(student)

    def check_sizes(self, length):
        """Refuse mini-batches or samples so small that a term never has a value.

        length: tokens a sample. Without the term, another method would be trained.
        """
        size = min(self.batch_size, self.rows)
        for name, term in self.terms.items():
            if size < term.fewest:
                raise UserError(
                    f"a mini-batch has {size} samples here, but the loss term {name} relates the "
                    f"samples of a mini-batch and has no value for fewer than {term.fewest} "
                    "(--gradient_accumulation_steps does not make it larger): pass "
                    f"--per_gpu_train_batch_size {term.fewest} or more, or set the weight of this "
                    "term to 0"
                )
            if length < term.fewest_tokens:
                raise UserError(
                    f"--max_seq_length is {length}, but the loss term {name} relates the tokens of "
                    f"a sample and has no value for fewer than {term.fewest_tokens}: pass more, or "
                    "set the weight of this term to 0"
                )

    def check_alignment(self):
        """Refuse terms that compare token with token if the models read different tokens."""
        for name, term in self.terms.items():
            if term.aligned and not self.aligned:
                raise UserError(
                    f"the loss term {name} compares the two models at the same tokens, but student "
                    "and teacher read the rows with two tokenizers, or at two lengths: set its "
                    "weight to 0, or take a method that compares samples, such as FSD_L "
                    "(docs/tokenizers.md lists them)"
                )

    # ---- a step ----------------------------------------------------------------------------------

    def forward(self, batch):
        """The student's Outputs for a MiniBatch, with all that the terms need."""
        return batch.forward(self.student, self.layers_s, "attention" in self.needs)

    def ask(self, batch):
        """The teacher's Outputs for a MiniBatch, from its cache if any; None without a teacher."""
        if self.teacher is None:
            return None
        if self.cache is not None:
            return self.cache.outputs(batch.of_teacher.teacher)
        logits, attention = "logits" in self.needs, "attention" in self.needs
        return self.teacher(batch.of_teacher, self.layers_t, logits, attention)

    def compute_terms(self, s, t, batch):
        """Two dicts by name: the terms' values and their weighted "total"; the Counted values."""
        values, counted = {}, {}
        for name, term in self.terms.items():
            values[name] = term.loss(s, t, batch.targets)
            if isinstance(values[name], Counted):
                counted[name] = values[name]
                values[name] = counted[name].value
        values["total"] = sum(term.weight * values[name] for name, term in self.terms.items())
        return values, counted

    def take_step(self, batches):
        """One optimizer step on a list of MiniBatches. Returns the unclipped gradient norm."""
        state, accelerator = self.state, self.accelerator
        for batch in batches:
            last = batch is batches[-1]
            with contextlib.nullcontext() if last else accelerator.no_sync(self.student):
                s, t = self.forward(batch), self.ask(batch)
                values, counted = self.compute_terms(s, t, batch)
                accelerator.backward(values["total"] / len(batches))
            state.meter.add(state.step + 1, values, counted)
            state.examples += batch.size
        # the losses' own parameters (M_s) are left out of clipping: in one norm with the student's
        # they would shrink its gradient, and Adam rescales theirs anyway
        most = self.args.max_grad_norm or math.inf
        norm = accelerator.clip_grad_norm_(self.student.parameters(), most)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if not state.optimizer.step_was_skipped:  # by fp16's loss scaler, after an overflow
            state.scheduler.step()
        return norm

    # ---- before the steps ------------------------------------------------------------------------

    @torch.no_grad()
    def average_memory(self, memories):
        """Start the student's memory as means of its present features, in one pass over the rows.

        All processes gather the same features, so their memories start alike.
        """
        device, workers = self.accelerator.device, self.args.dataloader_num_workers
        places = torch.arange(self.rows).split(self.batch_size)
        items = load(self.data, places, workers, device.type == "cuda")

        def mini_batches():
            for item in common.progress(items, total=len(places), unit="batch", desc="M_s"):
                batch = MiniBatch(item, device, self.world)
                s, t = self.forward(batch), self.ask(batch)
                h_s, relations_t = read_for_memories(s, t, batch.targets, memories.teacher)
                yield h_s, relations_t["euclidean"]

        self.student.eval()  # without dropout, and so without a random number
        memories.average(mini_batches())

    # ---- all steps -------------------------------------------------------------------------------

    def plan(self):
        """Yields (step, epoch, mini-batches of row indices) for each step that is left."""
        return windows(
            self.rows,
            self.batch_size,
            self.args.gradient_accumulation_steps,
            self.args.seed,
            self.state.step,
            self.total_steps,
            self.lengths,
        )

    def steps(self):
        """Yields (step, epoch, list of MiniBatches) for each step; workers prepare them ahead."""
        device = self.accelerator.device
        workers, gpu = self.args.dataloader_num_workers, device.type == "cuda"
        for step, epoch, items in load(Windows(self.data), self.plan(), workers, gpu):
            yield step, epoch, [MiniBatch(item, device, self.world) for item in items]

    def run(self, log, save, evaluate):
        """Train from the state's step to the last one.

        log(step, group=scalars, ...) and evaluate() -> dev metrics are called every
        --logging_steps, save(state) every --save_steps.
        """
        args, state = self.args, self.state
        self.student.train()
        bar = common.progress(
            total=self.total_steps, initial=state.step, unit="step", desc="training"
        )
        agreement = Agreement(self.accelerator, "training")
        started, seconds = time.perf_counter(), state.seconds
        for step, epoch, batches in self.steps():
            rate = state.scheduler.get_last_lr()[0]
            norm = self.take_step(batches)
            state.step, state.seconds = step, seconds + time.perf_counter() - started
            bar.update()
            paused = time.perf_counter()
            last = step == self.total_steps
            if last or step % args.logging_steps == 0:
                progress = {"epoch": round(epoch, 4), "learning_rate": rate}
                self.log_step(log, progress, norm, batches[-1], bar, None if last else evaluate)
            stopping = not last and agreement.asks(step)  # after the last step, the caller saves
            if stopping or (step % args.save_steps == 0 and not last):
                state.meter.check()
                save(state)
            if stopping:
                bar.close()
                termination.stop(f"step {step} of {self.total_steps} is saved")
            # logging, evaluating and saving do not count as training time
            started += time.perf_counter() - paused
        bar.close()

    def log_step(self, log, progress, norm, batch, bar, evaluate):
        """Log a step; only here the loop waits for the device. evaluate: None at the last step."""
        state = self.state
        state.meter.check()
        means, undefined, most = state.meter.read()
        self.say_undefined(state.step, most)
        bar.set_postfix(loss=f"{means['total']:.4f}")
        speed = state.examples / state.seconds
        log(
            state.step,
            loss=means,
            relation=self.observe(batch.indices),
            undefined=undefined,
            training=progress | {"grad_norm": float(norm), "examples_per_second": speed},
            dev=evaluate() if evaluate and self.args.evaluate_during_training else {},
        )
        self.student.train()

    def observe(self, indices):
        """{name: relation difference} of teacher and student on these rows; {} without a teacher.

        Computed on whole rows and without dropout, whatever the method does. indices: (B,).
        """
        if self.teacher is None:
            return {}
        batch = MiniBatch(self.whole[indices], self.accelerator.device, self.world)
        layer_s, layer_t = self.observed
        self.student.eval()
        with torch.no_grad():
            (h_s,) = batch.forward(self.student, (layer_s,)).features
        (h_t,) = self.teacher(batch.of_teacher, (layer_t,), logits=False).features
        if not self.aligned:  # the models' tokens do not correspond
            return sample_differences(flat(h_s, batch.targets), flat(h_t, batch.of_teacher.targets))
        return relation_differences(h_s, h_t, batch.targets.get("mask"))

    def say_undefined(self, step, most):
        """Warn once for each term most of whose values were undefined. most: the terms' names."""
        for name in most - self.told:
            say(
                f"warning: most values of the loss term {name} were undefined up to step {step} "
                "and left out: the rows of features were all alike, the teacher's or the "
                "student's, or too few"
            )
        self.told |= most
