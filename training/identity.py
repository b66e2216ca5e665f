"""What a run's numbers depend on beside its flags, computed once: an Identity.

The settings of a run, the facts of its memory and those of its teacher cache are made from it. If
they differ from those on disk, what is on disk belongs to another run.
"""

import json
from typing import NamedTuple

from tasks.features import tokenizer_fingerprint
from tasks.own import own_files
from training import models
from training.checkpoints import run_settings
from training.loading import for_student, has_teacher
from training.padding_flags import PADDING


class Identity(NamedTuple):
    """What a run reads, and with what. Fingerprints are sha256 as hex; teacher and configuration
    are None without a teacher.
    """

    task: str
    data: str  # fingerprint of the training rows
    rows: int
    tokenizer: str  # fingerprint
    max_seq_length: int
    teacher: str | None  # fingerprint of its weights
    configuration: str | None
    precision: str
    processes: int
    classes: tuple | None  # the task's names for its labels, None for a regression
    aligned: bool = True  # False for a student with another tokenizer or length than the teacher


def identify(session, tokenizer, features, teacher):
    """The Identity of a run.

    session: an object with args, task and accelerator, as a Session. features: the Features of the
    training rows. teacher: a classifier, or None.
    """
    return Identity(
        task=session.task.name,
        data=features.fingerprint,
        rows=len(features.indices),
        tokenizer=tokenizer_fingerprint(tokenizer),
        max_seq_length=session.args.max_seq_length,
        teacher=models.fingerprint_of_model(teacher) if teacher else None,
        configuration=models.fingerprint_of_config(teacher.config) if teacher else None,
        precision=session.accelerator.mixed_precision,
        processes=session.accelerator.num_processes,
        classes=session.task.labels,
    )


def read_by_student(identity, args, tokenizer):
    """The Identity of the same rows as a student with this tokenizer reads them."""
    own = tokenizer_fingerprint(tokenizer)
    length = for_student(args).max_seq_length
    aligned = (own, length) == (identity.tokenizer, identity.max_seq_length)
    return identity._replace(tokenizer=own, max_seq_length=length, aligned=aligned)


def settings_of(identity, args, method, memory_sha256=None, own=None):
    """All that decides what is trained, a dict as JSON keeps it; a resumed run must have the same.

    memory_sha256: of the memory's file, None without a memory. own: the Identity of the rows as the
    student reads them, None without a teacher.
    """
    settings = run_settings(args) | read_from_cache(args)
    settings |= {
        "method": method,
        "training data": identity.data,
        "teacher": identity.teacher,
        "tokenizer": identity.tokenizer,
        "processes": identity.processes,
        "precision": identity.precision,
    }
    if not has_teacher(args):
        settings["model_name_or_path"] = args.model_name_or_path
    if own_files(args):
        settings["classes"] = identity.classes
    if own and not own.aligned:
        settings["student's tokenizer"] = own.tokenizer
    if memory_sha256:
        settings["teacher memory"] = memory_sha256
    return json.loads(json.dumps(settings))


def read_from_cache(args):
    """{"teacher cache": True} if the teacher is read from a cache, as its features are rounded to
    half precision there; else {}.
    """
    return {"teacher cache": True} if getattr(args, "teacher_cache", None) else {}


def memory_facts(identity, model, args):
    """What a memory must share with the runs that use it, {name: value}.

    model: the teacher, whose penultimate features the memory is made of.
    """
    facts = {
        "task": identity.task,
        "teacher": identity.teacher,
        "tokenizer": identity.tokenizer,
        "layer": model.config.num_hidden_layers - 1,
        "max_seq_length": identity.max_seq_length,
        "hidden_size": model.config.hidden_size,
    }
    return facts | {flag.name: getattr(args, flag.name) for flag in PADDING}


def clustering_settings(identity, model, args):
    """All that decides what a memory becomes, a dict as JSON keeps it; see settings_of."""
    settings = run_settings(args) | read_from_cache(args) | memory_facts(identity, model, args)
    settings |= {
        "data": identity.data,
        "processes": identity.processes,
        "precision": identity.precision,
    }
    return json.loads(json.dumps(settings))


def cache_facts(identity):
    """What a teacher cache must share with the runs that read it, {name: value}."""
    return {
        "format": 2,  # shards; 1 was a .npy file for each kind
        "task": identity.task,
        "teacher": identity.teacher,
        "configuration": identity.configuration,
        "data": identity.data,
        "rows": identity.rows,
        "tokenizer": identity.tokenizer,
        "max_seq_length": identity.max_seq_length,
        "precision": identity.precision,
    }
