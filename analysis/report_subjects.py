"""A report's teacher and students: loaded, refused if they do not fit together, and measured."""

import argparse
from pathlib import Path
from typing import NamedTuple

import accelerate
import pandas as pd
import torch

import common
from analysis.methods import Name, read_name
from analysis.report_cost import read_cost
from analysis.report_measures import Centroids, Comparison, view
from analysis.report_readings import (
    Reading,
    check_alike,
    common_length,
    read_as_student,
    read_with,
    tell_of_alone,
)
from analysis.report_topics import training_curves
from analysis.runs import name_variants, names_of
from analysis.timing import mini_batches, time_rounds
from common import UserError, say
from precision import tell_slow_bfloat16
from tasks.own import make_task, own_files
from training import memory_file, models, records, results_csv
from training.batches import MiniBatch, Rows, with_labelled
from training.identity import identify, memory_facts
from training.loading import load_config
from training.rescoring import take_trained_columns, tell_other_columns
from training.session import find_task
from training.tokenizer import load_tokenizer

ROUNDS = 5  # rounds in which the inference is timed; the median counts


class Student(NamedTuple):
    """A loaded student: one folder with a trained model.

    run: its number among the students of the same name, from 0. record: what its run.json holds.
    reading: how it reads the rows. memory: its own memory's Centroids, or None.
    """

    method: str
    variant: tuple
    run: int
    folder: Path
    record: dict
    reading: Reading
    model: torch.nn.Module
    memory: Centroids | None

    @property
    def name(self):
        """The student's name as tables and figures print it."""
        return str(Name(self.method, self.variant))


# ---- what is to be compared ----------------------------------------------------------------------


def named_folders(words):
    """A list of (Name, folder) for the words of --students. A word is NAME=FOLDER or FOLDER, whose
    Name is None; the path of an existing folder may have an = itself.
    """
    found = []
    for word in words:
        name, equals, folder = word.partition("=")
        plain = Path(word).is_dir() or not equals
        folder = Path(word if plain else folder)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"--students {word}: there is no trained model in {folder}, as it has no "
                "config.json; give FOLDER or NAME=FOLDER of one"
            )
        found.append((None if plain else read_name(name), folder))
    folders = [folder.resolve() for _, folder in found]
    twice = [str(folder) for folder in folders if folders.count(folder) > 1]
    if twice:
        raise UserError(f"--students has {twice[0]} twice: name each folder once")
    return found


def check_task(record, folder, task):
    """Refuse a folder whose run.json names another task. record: what that file holds."""
    found = record.get("arguments", {}).get("task_name", task.name)
    if found != task.name:
        raise UserError(
            f"{folder} was trained on {found}, but this report is of {task.name}: give models that "
            f"were trained on {task.name}"
        )


def task_of(args, folders):
    """The Task of the report.

    A user's own task has the classes that a student's run.json lists, a distilled student's first:
    the rows at hand may lack a class, and the teacher may name its classes LABEL_0, LABEL_1, ...
    """
    if own_files(args) and not args.do_regression:
        runs = sorted(map(records.read_run, folders), key=lambda run: not run.get("teacher"))
        for settings in (run.get("settings") or {} for run in runs):
            if settings.get("classes"):
                return make_task(args, settings["classes"], bound=True)
    return find_task(args, args.model_name_or_path)


class Subjects:
    """The teacher and students of a report, and what was measured of them.

    students: in the tables' order. comparisons: a Comparison per student, in the same order.
    itself: the teacher's Comparison with itself. labels: (N,).
    """

    def __init__(self, args):
        self.args, self.folders = args, named_folders(args.students)
        take_trained_columns(args, self.folders[0][1])
        self.task = task_of(args, [folder for _, folder in self.folders])
        self.cost = read_cost(args.cost, args.reference) if args.cost else None
        if args.max_seq_length is None:
            args.max_seq_length = common_length(self.folders)
        try:  # CPU or CUDA: other accelerators may lack float64, which the measures need
            self.accelerator = accelerate.Accelerator(
                mixed_precision="bf16" if args.bf16 else "no",
                cpu=args.no_cuda or not torch.cuda.is_available(),
            )
        except ValueError as error:
            raise UserError(f"this device does not take --bf16 ({error}): leave it out") from None
        if args.bf16 and (told := tell_slow_bfloat16(self.accelerator.device)):
            say(told)
        self.notes = []
        self.load()

    # ---- loading ---------------------------------------------------------------------------------

    def load(self):
        args, task = self.args, self.task
        tokenizer = load_tokenizer(args)
        self.features, self.reading = read_with(args, task, tokenizer, args.max_seq_length)
        if "labelled" in with_labelled(self.features.tensors):
            raise UserError(
                f"{self.features.source['file']} has rows without a label, but a report tells how "
                "often a student is right: choose rows with labels, with --split"
            )
        self.labels = self.features.tensors["labels"].numpy()
        self.batch_size = min(args.per_gpu_eval_batch_size, len(self.labels))
        if self.batch_size < 4:
            raise UserError(
                f"{self.features.source['file']} of {task.name} has {len(self.labels)} rows, but "
                "relations between samples need 4 or more: choose other rows, with --split"
            )
        check_task(records.read_run(args.model_name_or_path), args.model_name_or_path, task)
        self.teacher = models.load_teacher(args, task, tokenizer)
        self.identity = identify(self, tokenizer, self.features, self.teacher)
        self.fingerprint = self.identity.teacher
        self.memory, self.memory_sha = (
            self.teacher_memory() if args.teacher_memory_path else (None, None)
        )
        self.students = []
        for name, folder in common.progress(
            self.folders, desc="loading", unit="student", leave=False
        ):
            self.students.append(self.student(name, folder, tokenizer))
        # students of equal ranks stay in the order given
        self.students.sort(key=lambda student: Name(student.method, student.variant).rank())
        check_alike(self.students)
        if told := tell_of_alone(self.students):
            self.note(told)
        self.check_padding()
        self.curves = training_curves(self.students, self.note)
        self.teacher.to(self.accelerator.device)

    def teacher_memory(self):
        """The teacher's Centroids and the sha256 of their file."""
        path = memory_file.find_memory(self.args.teacher_memory_path)
        m_t, _ = memory_file.load_memory(path, memory_facts(self.identity, self.teacher, self.args))
        return Centroids(m_t.to(self.accelerator.device)), common.sha256_of_file(path)

    def student(self, name, folder, tokenizer):
        """Load and check the Student in a folder. name: the Name given by --students, or None."""
        record = records.read_run(folder)
        check_task(record, folder, self.task)
        if told := tell_other_columns(self.task, folder):
            self.note(told)
        model = self.load_model(folder)
        sides = tokenizer, self.reading
        reading = read_as_student(self.args, self.task, *sides, folder, record, model, self.note)
        if record.get("teacher") not in (None, self.fingerprint):
            self.note(f"{folder.name} was distilled from another teacher than this one.")
        name = name or self.name_of(folder, record)
        if name == Name("teacher"):
            raise UserError(
                f"the student {folder} is named teacher, as the teacher itself is in all tables "
                f"and figures: give it another name, with --students NAME={folder}"
            )
        run = sum(student.name == str(name) for student in self.students)
        model = model.float().eval().requires_grad_(False).to(self.accelerator.device)
        own = self.student_memory(folder, model, reading)
        return Student(*name, run, folder, record, reading, model, own)

    def load_model(self, folder):
        """The model in a student's folder.

        --model_type is the teacher's family; the student's too only if its config.json names none.
        """
        args = argparse.Namespace(**vars(self.args))
        if common.read_json(folder / "config.json").get("model_type"):
            args.model_type = None
        config = load_config(args, str(folder), "student")
        models.check_labels(self.task, config, folder, "student")
        return models.load_finished(str(folder), config, "student", self.task)

    def name_of(self, folder, record):
        """The Name of a student: its run's if run.json is of a finished run, else the folder's."""
        if record.get("finished"):
            with records.complete_run(folder):
                row = pd.DataFrame([results_csv.result_row(record)])
                return names_of(name_variants(row))[0]
        name = folder.resolve().name
        if name in {student.name for student in self.students}:
            raise UserError(
                f"{folder} has no finished run.json, so its student is named {name} after the "
                "folder; another student has that name already, and the two would count as runs "
                f"of one method: name it, with --students NAME={folder}"
            )
        return read_name(name)

    def student_memory(self, folder, model, reading):
        """The Centroids of a student's own memory, or None.

        A memory does not count, and a note says so, if it was trained beside another teacher
        memory, for other weights, or for rows of another length.
        """
        path = folder / "student_memory.safetensors"
        if self.memory is None or not path.is_file():
            return None
        m_s, facts = memory_file.load_memory(path)
        if facts.get("teacher_memory") != self.memory_sha:
            self.note(
                f"The student memory of {folder.name} was trained beside another teacher memory "
                "and is left out."
            )
        elif facts.get("student") != models.fingerprint_of_model(model):
            self.note(
                f"The student memory of {folder.name} is not that of its weights and is left out."
            )
        elif m_s.shape[1] != reading.length * model.config.hidden_size:
            self.note(
                f"The student memory of {folder.name} is not of {reading.length} tokens a row and "
                "is left out."
            )
        else:
            return Centroids(m_s.to(self.accelerator.device))
        return None

    def check_padding(self):
        """Note which students were trained with another choice of --mask_padding than this one."""
        ours, other = self.args.mask_padding, {}
        for student in self.students:
            if student.record.get("arguments", {}).get("mask_padding", ours) != ours:
                other[student.name] = None
        if other:
            then, now = ("counted", "leaves it out") if ours else ("left out", "counts it")
            self.note(
                f"{', '.join(other)} {then} padding in training, and this report {now} "
                "(--mask_padding)."
            )

    def note(self, text):
        self.notes.append(text)
        say(f"note: {text}")

    # ---- measuring -------------------------------------------------------------------------------

    def outputs(self, model, batch, aligned=True):
        """The View of a model's outputs. aligned: whether the model reads the teacher's tokens."""
        with torch.no_grad():
            with self.accelerator.autocast():
                layers = range(model.config.num_hidden_layers + 1)  # 0: the embeddings
                out = batch.forward(model, layers)
            found = {tuple(h.shape[:2]) for h in out.features}
            expected = tuple(batch.targets["attention_mask"].shape)
            if found != {expected}:
                raise UserError(
                    f"{model.config.name_or_path} has hidden states of "
                    f"{' and '.join(map(str, found))} samples and tokens, not {expected}, as its "
                    "family shortens the text, and cannot be compared token by token: give models "
                    "of another family"
                )
            return view(out.logits, out.features, batch.targets.get("mask"), aligned)

    def measure(self):
        """Run all models over the rows. Sets `itself` and `comparisons`."""
        self.itself = Comparison(self.memory)
        self.comparisons = [
            Comparison(self.memory, student.memory, student.reading.aligned)
            for student in self.students
        ]
        # the id of a Reading -> its rows: models that read alike share a Reading and mini-batches
        own = {id(s.reading): Rows(s.reading.tensors) for s in [self, *self.students]}
        batches = torch.arange(len(self.labels)).split(self.batch_size)
        for indices in common.progress(batches, desc="measuring", unit="batch"):
            found = {
                way: MiniBatch(rows[indices], self.accelerator.device) for way, rows in own.items()
            }
            t = self.outputs(self.teacher, found[id(self.reading)])
            whole = len(indices) == self.batch_size
            self.itself.add(t, t, whole)
            for student, comparison in zip(self.students, self.comparisons, strict=True):
                batch = found[id(student.reading)]
                comparison.add(self.outputs(student.model, batch, comparison.aligned), t, whole)
        self.check_finite()

    def check_finite(self):
        """Refuse a model whose outputs are not finite."""
        folders = [student.folder for student in self.students]
        for name, comparison in zip(
            ["the teacher", *folders], [self.itself, *self.comparisons], strict=True
        ):
            if not comparison.is_finite():
                raise UserError(
                    f"the outputs of {name} are not finite numbers: measure without --bf16, or "
                    "train this model again"
                )

    def timed_batches(self, rows, size):
        """Name -> the first `rows` rows in mini-batches of `size`, as each model reads them."""
        readings = {"teacher": self.reading}
        readings |= {student.name: student.reading for student in reversed(self.students)}
        return {
            name: mini_batches(reading.tensors, rows, size, self.accelerator.device)
            for name, reading in readings.items()
        }

    def time_inference(self):
        """Time a student of every name, in turn. Sets `times`, name -> [seconds of each round] for
        one mini-batch, and `times_alone`, the same for its rows one by one.
        """
        first = {student.name: student.model for student in reversed(self.students)}
        models = {student.name: first[student.name] for student in self.students}
        batched, alone = (self.timed_batches(self.batch_size, n) for n in (self.batch_size, 1))
        self.times = time_rounds(models, batched, self.accelerator, ROUNDS)
        self.times_alone = time_rounds(models, alone, self.accelerator, ROUNDS, "timing rows alone")
