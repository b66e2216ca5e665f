"""The loop of analysis/probe.py: it measures a training without changing a bit of its result.

"Rows" are those of the probe's CSV without the step: (quantity, term, other, value).
"""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import cka
from analysis.probe_measures import (
    agreements,
    between_samples,
    between_tokens,
    directions,
    inner_products,
    memory_rows,
    rows_with_spread,
    sums_apart,
)
from choices import ESTIMATORS
from common import UserError, atomic_path
from loop import Loop
from memory import Memories
from seeds import mix
from training.batches import MiniBatch, first_tokens, flat
from training.logs import JsonLines, read_log

# in the run's folder: a line per measured step, which a resumed run goes on with
FILE = "probe.jsonl"
START = "probe_start.safetensors"  # beside it: the start of an averaged M_s


def steps_to_measure(total, number):
    """A set of `number` evenly spaced steps from 1 to total, both included; or all, if fewer."""
    return {1 + k * (total - 1) // (number - 1) for k in range(number)}


class ProbedLoop(Loop):
    """A Loop that measures at `probes` of its steps, and writes a line to FILE for each.

    batches: how many mini-batches of training rows a measured step draws for CKA and the memory.
    """

    def __init__(self, *arguments, probes, batches):
        super().__init__(*arguments)
        self.measured = steps_to_measure(self.total_steps, probes)
        self.how = {"probes": probes, "batches": batches}
        self.hidden, self.rows_found = None, []
        self.drawn = min(batches, self.rows // self.batch_size)
        if self.drawn < 2:
            raise UserError(
                "the probe needs two mini-batches that share no row to compare, and "
                f"{self.rows} training rows are not two of {self.batch_size}: pass "
                "--per_gpu_train_batch_size "
                f"{max(1, self.rows // 2)} or less"
            )
        modules = [term.module for term in self.terms.values() if isinstance(term.module, Memories)]
        self.memories = modules[0] if modules else None
        # M_s at its random start, before it is averaged or a checkpoint is restored
        self.start = self.memories.student.detach().clone() if modules else None

    def run(self, log, save, evaluate):
        path = Path(self.args.output_dir) / FILE
        self.check_how(path)
        self.lines = JsonLines(path, self.state.step)
        if self.memories and self.args.student_memory_init == "averaged":
            self.start = self.averaged_start()
        super().run(log, save, evaluate)

    def check_how(self, path):
        """Refuse to go on with measurements that a run's first part made in another way."""
        for _, entry in read_log(path) if self.state.step and path.is_file() else []:
            for flag, now in self.how.items():
                if entry["step"] <= self.state.step and entry.get(flag, now) != now:
                    raise UserError(
                        f"{path} was begun with --{flag} {entry[flag]}, and this is {now}: go on "
                        "with the value of before, or name another --output_dir"
                    )

    def averaged_start(self):
        """M_s before the first step; of a resumed run as it was kept then, None if it is gone."""
        path = Path(self.args.output_dir) / START
        if self.state.step:
            return load_file(path)["start"].to(self.accelerator.device) if path.is_file() else None
        m_s = self.memories.student.detach().clone()
        with atomic_path(path) as temporary:
            save_file({"start": m_s.cpu()}, temporary)
        return m_s

    def take_step(self, batches):
        step = self.state.step + 1
        if step not in self.measured:
            return super().take_step(batches)
        with self.keep_random_state():
            drawn = self.draw_batches(step)
            self.rows_found = self.features_rows(step, drawn)
            self.rows_found += self.agreement_rows(step, drawn[:2])
        with self.capture_hidden():
            norm = super().take_step(batches)
        self.lines.write({"step": step, **self.how, "rows": self.rows_found})
        return norm

    def compute_terms(self, s, t, batch):
        values, counted = super().compute_terms(s, t, batch)
        if self.hidden:
            self.rows_found += self.gradient_rows(values, self.hidden.pop())
        return values, counted

    @contextlib.contextmanager
    def keep_random_state(self):
        """A context in which the student may be run: its end restores random state and buffers."""
        gpus = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        before = [(buffer, buffer.clone()) for buffer in self.student.buffers()]
        with torch.random.fork_rng(gpus):
            yield
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)

    @contextlib.contextmanager
    def capture_hidden(self):
        """A context in which forwards of the student append its penultimate state to `hidden`.

        This is the tensor in the graph. MiniBatch.forward returns a copy of it if padding is not
        computed, and the wrapper for mixed precision returns a copy if the state is not float32.
        """
        self.hidden = []
        hooks = [
            self.student.register_forward_pre_hook(
                lambda module, words, named: (words, named | {"output_hidden_states": True}),
                with_kwargs=True,
            ),
            self.student.base_model.register_forward_hook(
                lambda module, words, out: self.hidden.append(out.hidden_states[self.observed[0]])
            ),
        ]
        try:
            yield
        finally:
            self.hidden = None
            for hook in hooks:
                hook.remove()

    def gradients(self, values, tensors):
        """The gradients of the weighted terms and of the total with respect to `tensors`.

        values: name -> loss. Returns {name: a gradient per tensor, None for 0}, and the scale that
        all of them are multiplied by. The graph is kept.
        """
        scaler = self.accelerator.scaler
        scale = scaler.get_scale() if scaler else 1.0  # in float16, the training's own
        losses = {name: term.weight * values[name] for name, term in self.terms.items()}
        losses["total"] = values["total"]
        return {
            name: torch.autograd.grad(scale * loss, tensors, retain_graph=True, allow_unused=True)
            for name, loss in losses.items()
        }, scale

    def parameters_of_student(self):
        """The parameters that the student trains, without M_s."""
        return [p for p in self.student.parameters() if p.requires_grad]

    def draw_batches(self, step):
        """Disjoint mini-batches of training rows, drawn for this step: index tensors (B,)."""
        generator = torch.Generator().manual_seed(mix(self.args.seed, "probe", step))
        order = torch.randperm(self.rows, generator=generator)
        return order.split(self.batch_size)[: self.drawn]

    def agreement_rows(self, step, batches):
        """Rows of `agreements` on two mini-batches (index tensors), each with its own dropout."""
        gradients = []
        for k, indices in enumerate(batches):
            torch.manual_seed(mix(self.args.seed, "probe", step, k))
            batch = MiniBatch(self.data[indices], self.accelerator.device)
            values, _ = super().compute_terms(self.forward(batch), self.ask(batch), batch)
            found, _ = self.gradients(values, self.parameters_of_student())
            gradients += found.values()
        return agreements(inner_products(gradients), list(found))

    def gradient_rows(self, values, hidden):
        """Rows with weights, values, norms and cosines of the terms on this step's mini-batch."""
        parameters = self.parameters_of_student()
        tensors = [*parameters, hidden, *([self.memories.student] if self.memories else [])]
        gradients, scale = self.gradients(values, tensors)
        products = inner_products([found[: len(parameters)] for found in gradients.values()])
        products /= scale**2
        rows = [("weight", name, "", term.weight) for name, term in self.terms.items()]
        rows += [("value", name, "", values[name].item()) for name in gradients]
        rows += directions(products, list(gradients))
        rows.append(("sum_apart", "total", "", sums_apart(products)))
        of_features, *of_memory = zip(
            *(g[len(parameters) :] for g in gradients.values()), strict=True
        )
        # XLNet returns copies of its hidden states: no output depends on these
        copied = any(
            g is None and moves for g, moves in zip(of_features, products.diagonal(), strict=True)
        )
        for what, found in (("features", of_features), *(("memory", g) for g in of_memory)):
            if not (what == "features" and copied):
                rows += [
                    ("weighted_norm", name, what, norm_of(gradient, scale))
                    for name, gradient in zip(gradients, found, strict=True)
                ]
        return rows

    def uncut_features(self, batch):
        """Features of student (B, W, D_s) and teacher (B, W, D_t) on a mini-batch with all padding.

        The student has its dropout. No random number of the training is drawn.
        """
        layer_s, layer_t = self.observed
        gpus = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(gpus):
            (h_s,) = batch.forward(self.student, (layer_s,)).features
        (h_t,) = self.teacher(batch.of_teacher, (layer_t,), logits=False).features
        return h_s, h_t

    @torch.no_grad()
    def features_rows(self, step, batches):
        """Rows with CKA's signal and noise, and on what has become of M_s, for these mini-batches.

        The student has its dropout, as in the losses. Samples have all their padding, each as its
        model pads it. If the two models read different tokens, nothing is measured between tokens.
        batches: index tensors (B,).
        """
        found, device = [], self.accelerator.device
        flats, samples, tokens = [], [], []
        first = getattr(self.args, "sample_features", None) == "first"
        for k, indices in enumerate(batches):
            torch.manual_seed(mix(self.args.seed, "probe", step, k))
            batch = MiniBatch(self.whole[indices], device, self.world)
            sides = self.uncut_features(batch)
            both = list(zip(sides, (batch.targets, batch.of_teacher.targets), strict=True))
            flats.append([flat(h.float(), targets) for h, targets in both])
            samples.append([first_tokens(*side) for side in both] if first else flats[-1])
            tokens.append((*sides, batch.targets.get("mask")))
        compared = [("L", samples, between_samples, self.batch_size)]
        if self.aligned:
            compared.append(("I", tokens, between_tokens, batch.targets["length"]))
        for term, items, compare, rows in compared:
            found += [
                ("rows", term, "", rows),
                *(
                    ("width", term, side, x.shape[-1])
                    for side, x in zip(("student", "teacher"), items[0][:2], strict=True)
                ),
            ]
            for estimator in ESTIMATORS:
                if rows >= cka.FEWEST_ROWS[estimator]:
                    signal, noise = compare(items, estimator)
                    found += rows_with_spread("cka_signal", term, estimator, signal)
                    found += rows_with_spread("cka_noise", term, estimator, noise)
        return found + (memory_rows(self.memories, self.start, flats) if self.memories else [])


def norm_of(gradient, scale):
    """The norm of a gradient that was multiplied by scale, without the scale; 0 for None."""
    return 0.0 if gradient is None else torch.linalg.vector_norm(gradient.double()).item() / scale
