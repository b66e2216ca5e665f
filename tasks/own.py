"""A task of a user's own files: --train_file, --validation_file and --test_file.

The columns are found by their names. The classes are those that a model names, or the labels of the
training file. Training rows may lack a label: they have KD and the structures, no cross-entropy.
"""

import os
import re
import unicodedata
from pathlib import Path

from common import UserError, say
from tasks.glue import TASKS
from tasks.reading import FORMATS, read_table, word_of
from tasks.task import Task, expect

PAIRS = (  # usual names of two text columns: HuggingFace's GLUE, SNLI, QQP, QNLI
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
)
SINGLES = ("text", "sentence")
LABELS = ("label",)
SCORES = ("label", "score")  # of a regression
FLAGS = {"train": "train_file", "dev": "validation_file", "test": "test_file"}
CLASSIFICATION, REGRESSION = ("acc", "f1_macro"), ("pearson", "spearmanr")
NAME = r"\w[\w .+-]*"  # of a task
LONGEST = 100  # bytes of a task's name, as file names made with it may have 255
FEW = 20  # up to so many different labels count as classes
NOTHING = "nan -nan none null n/a na <na> #n/a".split()  # what tools write in empty cells


def own_files(args):
    """{split: absolute Path} of the files that the flags name."""
    given = {split: getattr(args, name, None) for split, name in FLAGS.items()}
    return {split: Path(path).absolute() for split, path in given.items() if path}


def check_files(args):
    """Refuse files that do not exist or have an unknown ending, and flags that do not fit them."""
    files = own_files(args)
    if not files:
        for name in ("text_column_names", "label_column_name", "do_regression"):
            if getattr(args, name, None):
                raise UserError(f"--{name} is for files of your own: pass --train_file, too")
        return
    keys = {key.replace("-", ""): task for key, task in TASKS.items()}
    if (task := keys.get(args.task_name.lower().replace("-", ""))) is not None:
        raise UserError(
            f"--task_name {args.task_name} is GLUE's, and your own files would stand in one table "
            f"with {task.name}'s: give the task a name of its own"
        )
    if not re.fullmatch(NAME, args.task_name):
        raise UserError(
            f"--task_name {args.task_name!r} becomes part of names of folders and files: use "
            "letters, digits, spaces and . + - _ alone, and begin with a letter or digit"
        )
    if (size := len(os.fsencode(args.task_name))) > LONGEST:
        raise UserError(
            f"--task_name {args.task_name[:20]}... becomes part of file names and has {size} "
            f"bytes: take a name of at most {LONGEST}"
        )
    if getattr(args, "data_dir", None):
        raise UserError(
            f"--data_dir {args.data_dir} is a folder of GLUE's files, and --{FLAGS[min(files)]} "
            "names one of your own: pass one of the two"
        )
    for split, path in files.items():
        name = FLAGS[split]
        if not path.is_file():
            raise UserError(f"--{name} {getattr(args, name)} does not exist: name a file")
        if path.suffix.lower() not in FORMATS:
            raise UserError(
                f"--{name} {getattr(args, name)} ends in {path.suffix or 'nothing'}, but its "
                f"ending must say how it is read, by one of {', '.join(FORMATS)}: rename it"
            )


def make_task(args, words=(), bound=False):
    """The Task of the files in args.

    words: a model's names of its classes, in its order. bound: True if the model's answers count,
    as a teacher's or a trained model's do; its names must then cover the files' labels.
    """
    files = own_files(args)
    tables = {split: read_table(path) for split, path in files.items()}
    texts = find_texts(args, files, tables)
    label = find_label(args, files, tables)
    check_columns_once(files, tables, (*texts, label))
    if label in texts:
        raise UserError(
            f"--text_column_names {args.text_column_names} has the label column, {label}, in it, "
            "and a model would read the answer: leave it out, or name another --label_column_name"
        )
    labels = None
    if not args.do_regression:
        labels = choose_classes(find_labels(files, tables, label), words, bound)
    return Task(
        name=args.task_name,
        files=files,
        text_columns=texts,
        label_column=label,
        labels=labels,
        metrics=REGRESSION if args.do_regression else CLASSIFICATION,
        submissions={"test": f"{args.task_name}.tsv"} if "test" in files else {},
        partial=True,
        again="add some, or name another file",
    )


# ---- columns -------------------------------------------------------------------------------------


def find_texts(args, files, tables):
    """The names of the one or two text columns: from --text_column_names, or usual names."""
    split = next(iter(files))
    columns = tables[split].columns
    if args.text_column_names:
        names = tuple(name.strip() for name in args.text_column_names.split(","))
        expect(
            len(names) <= 2 and all(names) and len(set(names)) == len(names),
            "one or two columns with different names and a comma between",
            f"--text_column_names {args.text_column_names}",
            "correct the flag",
        )
        return names
    there = [names for names in (*PAIRS, *((one,) for one in SINGLES)) if set(names) <= {*columns}]
    # a column of a usual pair may have the usual name of a single one
    there = [names for names in there if not any(set(names) < set(others) for others in there)]
    usual = ", ".join(" and ".join(names) for names in (*PAIRS, *((one,) for one in SINGLES)))
    advice = "name one or two with --text_column_names"
    if not columns:
        advice = "name a file with a header line and rows"
    elif len(columns) == 1 and ";" in columns[0]:
        advice = "save the file with commas between its cells"
    expect(
        len(there) == 1,
        f"the text columns of exactly one of these: {usual}",
        f"{', '.join(map(str, columns)) or 'no column'} in {files[split]}",
        advice,
    )
    return there[0]


def find_label(args, files, tables):
    """The name of the label column: --label_column_name, or a usual one; None if no file has it.

    All files share the name. A training file may lack the column: a note then says so.
    """
    given, usual = args.label_column_name, SCORES if args.do_regression else LABELS
    columns = {split: tables[split].columns for split in files if split != "test"}
    wanted = (given,) if given else usual
    name = next((name for name in wanted if any(name in there for there in columns.values())), None)
    for split, there in columns.items():
        if name in there:
            continue
        other = next((other for other in usual if other in there), None)
        if name and other:
            where = next(files[split] for split in columns if name in columns[split])
            raise UserError(
                f"the labels are in the column {other} of {files[split]}, but in {name} of "
                f"{where}: give them one name in all files"
            )
        if given and (name is None or split == "dev"):
            raise UserError(
                f"--label_column_name is {given}, but {files[split]} has the columns "
                f"{', '.join(there)}: name one of these"
            )
        lacks = f"no column {name or ' or '.join(usual)}, only {', '.join(there)}"
        if split == "dev":
            raise UserError(
                f"{files[split]} has no labels to score a model by: {lacks}; name their column "
                "with --label_column_name"
            )
        say(f"note: {files[split]} has no labels: {lacks}")
    return given or name


def check_columns_once(files, tables, names):
    """Refuse a file with two columns of one name, if that is among `names`."""
    for split, table in tables.items():
        for name in names:
            if table.columns.count(name) > 1:
                raise UserError(
                    f"{files[split]} has {table.columns.count(name)} columns named {name} in its "
                    "first line: rename all but one"
                )


# ---- classes -------------------------------------------------------------------------------------


def find_labels(files, tables, column):
    """labels_of the training file, or of the validation file if the former has none; else {}.

    Labels in a test file are not read.
    """
    for split in ("train", "dev"):
        if split in files and column in tables[split].columns:
            found = labels_of(tables[split], column)
            if found:
                return found
    return {}


def labels_of(table, column):
    """{label: its places, a list} of a column of a Table, without empty labels."""
    found = {}
    for where, row in table.rows:
        if word := word_of(row.get(column)):
            found.setdefault(word, []).append(where)
    return found


def key(word):
    """A form of a class's name that is the same for all its spellings.

    Case does not count, nor which of space, hyphen and underscore stands between words. A word
    without letters, as -1, stays as it is, but 1.0 is 1. C, C++ and C# are three classes.
    """
    word = word_of(word)
    if not re.search(r"[^\W\d_]", word):
        return word
    folded = unicodedata.normalize("NFC", word.casefold())
    return re.sub(r"[\s_-]+", "_", folded).strip("_")


def is_whole(word):
    """True if a label is a whole number, as 3, -1 or 2.0."""
    return re.fullmatch(r"-?\d+", word_of(word)) is not None


def choose_classes(found, words, bound=False):
    """The names of the classes: a model's, in its order and as the file spells them, if they cover
    all labels of the file; else the file's labels, sorted.

    found: from labels_of. words, bound: as in make_task. The names LABEL_0, LABEL_1, ... are those
    of a model that knows no classes. Labels 0, 1, ... are a bound model's classes in its order.
    UserError if labels and classes do not fit.
    """
    check_labels(found)
    spelled, names = {key(word): word for word in found}, list(map(key, words))
    numbered = names == [f"label_{k}" for k in range(len(words))]
    if numbered and (len(found) == 1 or (found and not bound)):
        words = names = ()  # these are the names of a model that was made for no task yet
    if spelled.keys() <= {*names} and len({*names}) == len(names) > 1:
        pairs = zip(names, map(word_of, words), strict=True)
        return tuple(spelled.get(name, word) for name, word in pairs)
    if bound and len(words) > 1:
        if numbered:
            if classes := take_as_places(found, words):
                return classes
        else:
            return take_as_numbers(found, words)
    expect(
        len(found) > 1,
        "labels of two classes or more",
        f"{', '.join(map(repr, found)) or 'none'} in the file",
        "pass --do_regression, as the model has a single output"
        if bound and len(words) == 1
        else "add rows of another class, or give a teacher that names its classes",
    )
    tell_of_odd_classes(found)
    return tuple(sorted(found, key=int if all(map(is_whole, found)) else None))


def numbers_of(found, words):
    """("0", "1", ...), one for each of a model's classes, if all labels are among them; else None.

    None also if no label is "0": labels counted from 1 would each be taken for the next class.
    """
    numbers = tuple(str(k) for k in range(len(words)))
    return numbers if "0" in found and found.keys() <= {*numbers} else None


def take_as_places(found, words):
    """The classes, as numbers_of gives them, of a bound model whose names are LABEL_0, LABEL_1, ...

    None if the labels are other words, or as many as its classes; UserError for other numbers.
    """
    if numbers := numbers_of(found, words):
        return numbers
    if len(found) != len(words) and all(map(is_whole, found)):
        word, places = next(iter(found.items()))
        raise UserError(
            f"the model has the {len(words)} classes {words[0]} to {words[-1]}, but the labels are "
            f"{', '.join(sorted(found, key=int))}, the first {word} in {places[0]}, and nothing "
            f"says which is which: write them as the model does, or as 0 to {len(words) - 1}"
        )
    return None


def take_as_numbers(found, words):
    """The classes, as numbers_of gives them, of a bound model with names of its own; UserError if
    there are none.
    """
    numbers = numbers_of(found, words)
    if numbers and not any(map(is_whole, words)):
        say(
            f"note: the labels {', '.join(numbers)} are taken for the model's classes, "
            f"{', '.join(words)}, in this order"
        )
        return numbers
    names = [*map(key, words)]
    if twice := [word for word in words if names.count(key(word)) > 1]:
        raise UserError(
            f"the model's class names {' and '.join(twice)} count as the same (case, space, - and "
            "_ are ignored), so no label can tell them apart: give them different names in the "
            "model's config.json"
        )
    word = next(word for word in found if key(word) not in names)
    raise UserError(
        f"the label {word!r} in {found[word][0]} is none of the classes that the model names, "
        f"{', '.join(words)}: write the labels as the model does, name another "
        "--label_column_name, or take a model of these classes"
    )


def tell_of_odd_classes(found):
    """Print a note for a label that looks like a tool's empty cell, or like a quoted cell."""
    for word, places in found.items():
        if word.casefold() in NOTHING:
            say(
                f"note: the label {word!r}, in {places[0]}, is taken for a class: leave the cell "
                "empty where a row has no label"
            )
        if len(word) > 1 and word[0] == word[-1] == '"':
            say(
                f"note: the label {word!r}, in {places[0]}, is taken for a class with its quotes: "
                "a .tsv has no quoting, so save the file as .csv if they are meant as such"
            )


def check_labels(found):
    """Refuse labels that can only be scores, and two labels that differ only in spelling."""
    advice = "pass --do_regression, or name another --label_column_name"
    number = sum(map(len, found.values()))
    for word, places in found.items():
        if re.fullmatch(r"-?\d*\.\d*[1-9]\d*(e[+-]?\d+)?", word.lower()):
            raise UserError(f"the label {word!r} in {places[0]} is a score and no class: {advice}")
    if len(found) > max(FEW, number / 2):
        raise UserError(
            f"{len(found)} different labels in {number} rows, the first {next(iter(found))!r}, are "
            f"no classes (more than {FEW}, and more than one for every two rows): {advice}"
        )
    spelled = {}
    for word, places in found.items():
        other = spelled.setdefault(key(word), word)
        if other != word:
            raise UserError(
                f"the labels {other!r} and {word!r}, in {places[0]}, count as one class (case, "
                "space, - and _ are ignored): write it in one way, or name two classes apart"
            )
