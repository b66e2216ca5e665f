"""Distil a teacher into a student: the story of a run, from its flags to its output folder.

    load -> identify -> resume? -> build -> loop -> leave

A method is a dict of weighted, named terms (terms.py) that a script makes from its flags; then the
script calls `run`. What happens to a mini-batch is in loop.py.
"""

import time
from typing import NamedTuple

import torch
import transformers

import common
import memory
from common import UserError, say, termination
from loop import Loop
from seeds import mix
from tasks.features import Features
from terms import needs_of
from training import (
    evaluation,
    flags,
    logs,
    memory_file,
    model_card,
    models,
    records,
    rescoring,
    results_csv,
    saving,
    students,
)
from training.cache_entries import entries
from training.checkpoints import (
    checkpoint_to_resume,
    checkpoints,
    other_settings,
    restore,
    save_checkpoint,
    step_of,
)
from training.identity import identify, memory_facts, read_by_student, settings_of
from training.loading import has_teacher
from training.missing_labels import mind_missing_labels
from training.session import open_session, peak_memory
from training.teacher import Teacher
from training.teacher_cache import fill_cache
from training.tokenizer import load_tokenizer, own_tokenizer

# ---- the story -----------------------------------------------------------------------------------


def run(args, method, terms, check=None, loop=None, layers="penultimate"):
    """Train, evaluate and predict as the flags say. Returns the exit code.

    method: the name under which the run appears in tables. terms(args, memories) -> {name: Term},
    where memories is the memory.Memories of a method with a global structure, else None.
    check(args, student, teacher) raises a UserError for models that the method cannot take.
    loop: a function to call in place of the class Loop. layers: "penultimate" or "every",
    the layers that the terms compare, see students.layer_pairs.
    """
    began = time.perf_counter()
    with open_session(args) as session:
        return Run(session, method, terms, check, loop or Loop, layers).main(began)


class Side(NamedTuple):
    """How one of the two models reads the training rows: its tokenizer, and its Features."""

    tokenizer: object
    features: Features


class Run:
    """One run of one method on one task. `record` (a records.Record) becomes its run.json."""

    def __init__(self, session, method, terms, check, make_loop, layers):
        self.session, self.args, self.output = session, session.args, session.output
        self.method, self.terms, self.check, self.make_loop = method, terms, check, make_loop
        self.layers = layers
        self.record = records.Record.begin(session, method)

    def main(self, began):
        """Take the steps that the flags ask for; after the last one, run.json says "finished"."""
        args, session, results = self.args, self.session, {}
        log = self.train() if args.do_train else None
        if args.do_eval:
            results = evaluation.evaluate_folder(session, self.output)
            for checkpoint in checkpoints(self.output) if args.eval_all_checkpoints else []:
                found = evaluation.evaluate_folder(session, checkpoint)
                say(f"{checkpoint.name}: {evaluation.describe(found)}")
        if args.do_predict:
            evaluation.write_predictions(session)
        if args.do_train and common.is_main_process():
            self.finish(log, results, time.perf_counter() - began)
        elif args.do_eval and not args.do_train:
            rescoring.keep_scores(session, results)
        done = evaluation.describe(results) or "done"
        if not args.do_train:  # another script may have trained the model
            self.method = records.read_run(self.output).get("method", self.method)
        say(f"{self.method} on {session.task.name}: {done}; everything is in {self.output}")
        return 0

    def train(self):
        """Train from the start or from a checkpoint, and save the model in the output folder.

        Returns the log, still open.
        """
        args, session, record = self.args, self.session, self.record
        transformers.set_seed(args.seed)
        # load
        teacher, (ours, theirs) = self.load()
        # identify
        identity = identify(session, theirs.tokenizer, ours.features, teacher)
        record.data, record.teacher = {"train": ours.features.source}, identity.teacher
        m_t = self.load_teacher_memory(identity, teacher) if flags.needs_memory(args) else None
        own = read_by_student(identity, args, ours.tokenizer)
        settings = settings_of(identity, args, self.method, self.memory_sha256(), own)
        # resume?
        before = common.read_json(self.output / "run.json")
        if self.is_trained(before, settings):
            say(f"the training in {self.output} is done; going on after it")
            self.record = records.Record.go_on(before, args, self.output)
            return logs.Log(self.output, args.run_file, self.record.steps)
        checkpoint = checkpoint_to_resume(args, settings)
        # all processes must have looked before the main one clears the folder
        session.accelerator.wait_for_everyone()
        # build
        student = self.build_student(ours.tokenizer, teacher, checkpoint, ours is not theirs)
        can_cut = session.can_cut(student, ours.features)
        if teacher:
            teacher = teacher.to(session.device)
            can_cut = session.can_cut(teacher, theirs.features) and can_cut
            record.teacher_scores = evaluation.score_teacher(
                session, identity, teacher, theirs.tokenizer, theirs.features
            )
        memories = self.build_memories(m_t, student, ours.features.tensors)
        loop = self.build_loop(identity, ours, theirs, student, teacher, memories, can_cut)
        if memories and args.student_memory_init == "averaged" and not checkpoint:
            loop.average_memory(memories)
        record.settings = settings
        # loop
        self.enter(loop, checkpoint, before)
        log = logs.Log(self.output, args.run_file, loop.state.step)

        def save(state):
            self.save_checkpoint(state, student, ours.tokenizer)

        def evaluate():
            return evaluation.evaluate(session, loop.student, ours.tokenizer)[0]

        termination.hold()
        loop.run(log, save, evaluate)
        # leave
        self.leave(loop, student, ours.tokenizer, memories, own)
        termination.release()
        return log

    # ---- load ------------------------------------------------------------------------------------

    def load(self):
        """The teacher, or None, and two Sides, (the student's, the teacher's).

        Both are one object unless the student has a tokenizer or a length of its own.
        """
        args, session = self.args, self.session
        tokenizer = tokenizer_t = load_tokenizer(args)
        teacher = None
        if has_teacher(args):
            teacher = models.load_teacher(args, session.task, tokenizer_t)
            tokenizer = own_tokenizer(args, tokenizer_t, teacher.config) or tokenizer_t
        features = session.training_features(tokenizer)
        ours = theirs = Side(tokenizer, mind_missing_labels(features, args, teacher is not None))
        if hasattr(args, "alpha"):
            self.record.arguments["alpha"] = args.alpha  # 0 where no row has a label
        if teacher and students.reads_alone(args, tokenizer, tokenizer_t):
            features_t = session.features("train", tokenizer_t, args.max_train_samples)
            theirs = Side(tokenizer_t, features_t)
        return teacher, (ours, theirs)

    # ---- identify, resume ------------------------------------------------------------------------

    def load_teacher_memory(self, identity, teacher):
        """The centroids (C, W*D_t) in --teacher_memory_path; refused if they do not fit the run."""
        path = memory_file.find_memory(self.args.teacher_memory_path)
        m_t, facts = memory_file.load_memory(path, memory_facts(identity, teacher, self.args))
        if facts.get("data", identity.data) != identity.data:
            raise UserError(
                f"the memory {path} was made from other training rows than this run has: make one "
                "from this run's rows with train_memory.py"
            )
        if (samples := facts.get("samples", identity.rows)) != identity.rows:
            say(
                f"note: the memory {path} is made from {samples} rows, this run has {identity.rows}"
            )
        self.record.teacher_memory = facts | {"sha256": common.sha256_of_file(path)}
        return m_t

    def memory_sha256(self):
        """The fingerprint of the teacher's memory, "" without one."""
        return (self.record.teacher_memory or {}).get("sha256", "")

    def is_trained(self, before, settings):
        """True if `before`, a run.json, has these settings and was cut off after its training."""
        if not before.get("trained") or before.get("finished"):
            return False
        then = flags.as_of_today(before.get("settings") or {})
        if then != settings and not self.args.overwrite_output_dir:
            raise other_settings(self.output, then, settings)
        return then == settings

    # ---- build -----------------------------------------------------------------------------------

    def build_student(self, tokenizer, teacher, checkpoint, alone):
        """The student on its device; refused if it cannot be saved or the method cannot take it."""
        session = self.session
        student = students.load_student(
            self.args, session.task, tokenizer, teacher, checkpoint, alone
        )
        if not checkpoint and common.is_main_process():
            if teacher is None or self.args.copy_teacher:
                self.record.initial_weights = students.fingerprint_of_encoder(student)
            with common.atomic_path(self.output / "rehearsal", keep=False) as folder:
                saving.check_saving(student, tokenizer, folder)
        student = student.to(session.device)
        if self.check:
            self.check(self.args, student, teacher)
        return student

    def build_memories(self, m_t, student, rows):
        """The Memories of G, None without m_t. rows: the training rows of the student, by name."""
        if m_t is None:
            return None
        args = self.args
        return memory.Memories(
            m_t.to(self.session.device),
            student.config.hidden_size,
            rows["attention_mask"].shape[1],
            args.seed,
            args.cka_estimator,
            args.student_memory_init,
            rows["mask"].bool().any(0) if "mask" in rows else None,
        )

    def build_loop(self, identity, ours, theirs, student, teacher, memories, can_cut):
        """The Loop over the training rows; first fills the teacher's cache, if there is one.

        ours, theirs: the Side of the student and that of the teacher.
        """
        args, accelerator = self.args, self.session.accelerator
        pairs, observed, cache = [], None, None
        terms = self.terms(args, memories)
        if teacher:
            pairs = students.layer_pairs(args, student, teacher, self.layers)
            observed = students.penultimate_pair(student, teacher)
            teacher = Teacher(teacher, accelerator)
            if args.teacher_cache and needs_of(terms):
                cache = self.build_cache(identity, theirs.features, teacher, terms, pairs, memories)
        return self.make_loop(
            args,
            accelerator,
            student,
            teacher,
            terms,
            pairs,
            ours.features.tensors,
            cache,
            observed,
            can_cut,
            None if ours is theirs else theirs.features.tensors,
        )

    def build_cache(self, identity, features, teacher, terms, pairs, memories):
        """The TeacherCache in --teacher_cache, filled with what the terms need of the teacher."""
        args = self.args
        layers = [layer for _, layer in pairs]
        config = teacher.model.config
        masked = "mask" in features.tensors
        wanted = entries(
            needs_of(terms), layers, config, args, masked, memories, self.memory_sha256()
        )
        size = args.per_gpu_train_batch_size
        return fill_cache(self.session, self.record, identity, teacher, features, wanted, size)

    # ---- loop, leave -----------------------------------------------------------------------------

    def enter(self, loop, checkpoint, before):
        """Go on from the checkpoint, if there is one; make the output folder this run's."""
        args, accelerator = self.args, self.session.accelerator
        if checkpoint:
            restore(loop.state, checkpoint)
            done = f"{loop.state.step} of {loop.total_steps} steps are done"
            say(f"resuming from {checkpoint}: {done}")
        elif accelerator.process_index:
            # otherwise dropout drops the same units in all processes
            torch.manual_seed(mix(args.seed, "process", accelerator.process_index))
        if common.is_main_process():
            self.take_folder(checkpoint, loop.state.step, before)
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(accelerator.device)

    def take_folder(self, checkpoint, step, before):
        """Delete in the output folder what another run wrote, or this one after the checkpoint."""
        own = checkpoint is not None and checkpoint.parent.resolve() == self.output.resolve()
        if checkpoint and not own:
            before = common.read_json(checkpoint.parent / "run.json")
        if checkpoint:
            with records.complete_run(checkpoint.parent):
                self.record.follow(before)
                self.record.initial_weights = before.get("initial_weights")
        if own:
            self.record.started = before.get("started", self.record.started)
        else:
            records.clear(self.output)
        for path in checkpoints(self.output):
            if not own or step_of(path) > step:
                common.remove_folder(path)
        self.record.write(self.output)

    def save_checkpoint(self, state, student, tokenizer):
        """Write a checkpoint of a State; all processes take part."""
        tensors, progress = state.pack()
        if common.is_main_process():
            save_checkpoint(
                self.output,
                state.step,
                lambda folder: saving.save_model(student, tokenizer, folder),
                tensors,
                progress | {"settings": self.record.settings},
                self.args.save_total_limit,
            )
        self.session.accelerator.wait_for_everyone()

    def leave(self, loop, student, tokenizer, memories, own):
        """Save the trained model, and M_s for analysis; record what the training took."""
        state = loop.state
        if common.is_main_process():
            if memories:
                facts = memory_facts(own, student, self.args) | {
                    "student": models.fingerprint_of_model(student),
                    "num_centroid": len(memories.student),
                    "teacher_memory": self.memory_sha256(),
                }
                path = self.output / "student_memory.safetensors"
                memory_file.save_memory(path, memories.student, facts)
            saving.place_model(student, tokenizer, self.output)
        record = self.record
        record.trained, record.steps, record.train_seconds = True, state.step, state.seconds
        record.examples_per_second = state.examples / max(state.seconds, 1e-9)
        record.peak_memory_mib = peak_memory(self.session.device)
        record.parameters = sum(p.numel() for p in student.parameters())
        record.write(self.output)
        self.session.accelerator.wait_for_everyone()

    def finish(self, log, results, seconds):
        """Close the log, append to --results_csv, and say in run.json that the run is finished."""
        args, record = self.args, self.record
        termination.hold()  # SIGTERM must not interrupt a run that is finished
        tuned = flags.hyperparameters()
        shown = {name: value for name, value in vars(args).items() if name in tuned}
        log.close(record.steps, {"method": self.method} | shown, results)
        scored = self.session.dev_splits() if results else ()
        record.data |= {split: self.session.sources[split] for split in scored}
        record.results, record.wall_seconds, record.finished = results, seconds, True
        if args.results_csv:
            with records.complete_run(self.output):
                row = results_csv.result_row(record.as_json())
            results_csv.append_result(args.results_csv, row)
        with records.complete_run(self.output):  # the card first: a finished run has one
            model_card.write_card(record, self.output)
        record.write(self.output)
