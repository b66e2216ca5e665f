"""How the models of a report read its rows: as the teacher does, or with a tokenizer or a length of
their own.

A length is the number of tokens that rows are cut or padded to. Samples are the same however they
are read, so they can always be compared. If two models read a sample as different tokens, no token
or position of the one belongs to one of the other.
"""

from typing import NamedTuple

from common import UserError
from tasks.features import load_features, tokenizer_fingerprint
from training import flags, records
from training.batches import with_mask
from training.card_page import row_length
from training.reading import check_reading
from training.tokenizer import has_tokenizer, prepare_tokenizer


class Reading(NamedTuple):
    """The rows as a model reads them. tensors: name -> (N, W), with the padding of that model.

    tokenizer: its fingerprint. words: the size of its vocabulary. length: W. aligned: True if every
    position holds the token that it holds for the teacher.
    """

    tensors: dict
    tokenizer: str
    words: int
    length: int
    aligned: bool = True

    def as_words(self):
        return f"{self.length} tokens a row, a vocabulary of {self.words}"


def common_length(folders):
    """The --max_seq_length of the students' runs, which must share one; 128 if no run.json says."""
    found = {
        records.read_run(folder).get("arguments", {}).get("max_seq_length") for _, folder in folders
    } - {None}
    if len(found) > 1:
        raise UserError(
            "the students were trained with different lengths "
            f"({', '.join(map(str, sorted(found)))}): choose with --max_seq_length the one at "
            "which to compare them"
        )
    return found.pop() if found else 128


def load_rows(args, task, tokenizer, length):
    """The Features of --split with this tokenizer and length, and `mask` if padding is left out."""
    features = load_features(
        task,
        args.data_dir,
        args.split,
        tokenizer,
        length,
        args.cache_dir or None,
        False,
        args.max_eval_samples,
    )
    return features._replace(tensors=with_mask(features.tensors, args))


def read_with(args, task, tokenizer, length, aligned=True):
    """The rows as a model with this tokenizer reads them at this length: (Features, Reading)."""
    features = load_rows(args, task, tokenizer, length)
    fingerprint = tokenizer_fingerprint(tokenizer)
    return features, Reading(features.tensors, fingerprint, len(tokenizer), length, aligned)


# ---- a student's ---------------------------------------------------------------------------------


def read_as_student(args, task, tokenizer_t, teacher, folder, record, model, note):
    """The Reading of a student: the teacher's if both read alike, else its own.

    A student's tokenizer is that in its folder, or else the teacher's; its length is that of its
    training, by run.json. tokenizer_t, teacher: the teacher's tokenizer and Reading. record: what
    the student's run.json holds. note: a function that takes a sentence on what is doubtful.
    """
    settings, length = record.get("settings") or {}, args.max_seq_length
    arguments = record.get("arguments", {})
    tokenizer = own_tokenizer_of(args, folder, settings, model.config) or tokenizer_t
    same_length = arguments.get("student_max_seq_length") in (None, length)
    if same_length and reads_alike(args, task, tokenizer, teacher):
        check_fits(teacher, folder, model.config)
        return teacher
    if "max_seq_length" in arguments:
        length = row_length(arguments)
    _, reading = read_with(args, task, tokenizer, length, aligned=False)
    check_fits(reading, folder, model.config)
    check_reading(model, tokenizer, length, f"student {folder}")
    trained = settings.get("student's tokenizer") or settings.get("tokenizer")
    if trained not in (None, reading.tokenizer):
        note(f"{folder.name} is read with another tokenizer than it was trained with.")
    return reading


def own_tokenizer_of(args, folder, settings, config):
    """The tokenizer in a student's folder, or None. Refuses a student that was trained with another
    tokenizer than the teacher's and has none in its folder.
    """
    if has_tokenizer(folder):
        return prepare_tokenizer(args, str(folder), config)
    trained = settings.get("student's tokenizer")
    if trained not in (None, settings.get("tokenizer")):
        raise UserError(
            f"the student {folder} was trained with a tokenizer of its own, and there is none in "
            "its folder: put that tokenizer's files there"
        )
    return None


def reads_alike(args, task, tokenizer, teacher):
    """True if a tokenizer makes the same tokens of every row as the teacher's does."""
    if tokenizer_fingerprint(tokenizer) == teacher.tokenizer:
        return True
    found = load_rows(args, task, tokenizer, teacher.length).tensors
    return all(
        bool((found[name] == teacher.tensors[name]).all())
        for name in ("input_ids", "attention_mask")
    )


def check_fits(reading, folder, config):
    """Refuse a student whose embeddings lack a token or a position of the rows."""
    largest = int(reading.tensors["input_ids"].max())
    longest = getattr(config, "max_position_embeddings", None)
    if largest >= config.vocab_size or 0 < (longest or 0) < reading.length:
        raise UserError(
            f"the student {folder} has a vocabulary of {config.vocab_size} tokens and takes "
            f"{longest or 'any number of'} positions, but the rows have tokens up to number "
            f"{largest} and {reading.length} positions: put the tokenizer that it was "
            "trained with into its folder, or pass a --max_seq_length that it takes"
        )


# ---- all of them ---------------------------------------------------------------------------------


def check_alike(students):
    """Refuse students of one name that read the rows in different ways, were trained with different
    flags, or are known to have begun with different weights: their mean says nothing. Refuse, too,
    one seed twice.
    """
    ways, starts = {}, {}
    for name in dict.fromkeys(student.name for student in students):
        check_trained_alike([student for student in students if student.name == name])
    for student in students:
        way = student.reading.tokenizer, student.reading.length, student.reading.aligned
        first = ways.setdefault(student.name, (way, student.folder))
        if first[0] != way:
            raise UserError(
                f"{first[1]} and {student.folder} are both named {student.name}, but read the rows "
                "with two tokenizers, or at two lengths: give one of them another name, with "
                "--students NAME=FOLDER"
            )
        if not (start := student.record.get("initial_weights")):
            continue  # at random, or a run of an earlier version
        first = starts.setdefault(student.name, (start, student.folder))
        if first[0] != start:
            raise UserError(
                f"{first[1]} and {student.folder} are both named {student.name}, but began with "
                f"different weights ({first[0][:12]} and {start[:12]}, by checksum): give one of "
                "them another name, with --students NAME=FOLDER"
            )


def check_trained_alike(students):
    """Refuse students of one name that differ in a flag of the roles weight or budget, or have one
    seed twice.
    """
    names = [flag.name for flag in flags.named("weight", "budget")]
    seeds, first = {}, None
    for student in students:
        record = student.record
        if not record.get("arguments"):
            continue  # a model of which no run is known
        then = flags.as_of_today(record["arguments"])
        found = {name: then.get(name) for name in names}
        first = first or (found, student.folder)
        if differ := [name for name in names if found[name] != first[0][name]]:
            name = differ[0]
            raise UserError(
                f"{first[1]} and {student.folder} are both named {student.name}, but --{name} was "
                f"{first[0][name]} and {found[name]}: give one of them another name, with "
                "--students NAME=FOLDER, or leave it out"
            )
        other = seeds.setdefault(record.get("seed"), student.folder)
        if other != student.folder:
            raise UserError(
                f"{other} and {student.folder} are both named {student.name} and have the seed "
                f"{record['seed']}, so their mean would count it twice: give one of them another "
                "name, with --students NAME=FOLDER, or leave it out"
            )


def tell_of_alone(students):
    """A sentence on the students that read other tokens than the teacher; None without any."""
    alone = {s.name: s.reading.as_words() for s in students if not s.reading.aligned}
    if not alone:
        return None
    told = ", ".join(f"{name} ({words})" for name, words in alone.items())
    return (
        f"These read the rows with a tokenizer, or at a length, of their own: {told}. Their "
        "samples are compared with the teacher's; what compares token with token, or position with "
        "position, as the place among the teacher's centroids does, has no value for them."
    )
