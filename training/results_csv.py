"""results.csv, a table with a row for each run: written under a lock, and read as well after a
spreadsheet has saved it.
"""

import csv
import io
import re
from pathlib import Path

import filelock
import numpy as np

from common import UserError, atomic_path, follow, make_folder
from training import flags, records
from training.cells import AMOUNT, COUNT, METRICS, Limits, find_fault, read_task

RESULT = ("method", "seed")  # the columns that every results.csv has
TEXTS = (  # the columns of text that are no flags, of all our tables
    "method",
    "metric",
    "run",
    "index",
    "form",
    "model",
    "device",
    "machine",
    "precision",
    "started",
    "commit",
    "teacher",
    "data",
    "dev_data",
    "initial_weights",
    "settings",
    "memory",
    "torch",
    "transformers",
)
NUMBERS = {  # the columns of numbers that are no flags
    "seed": COUNT,
    **METRICS,
    **{f"{name}_mm": limits for name, limits in METRICS.items()},
    **dict.fromkeys(("eval_loss", "eval_loss_mm")),  # any number, also inf: no table shows them
    **dict.fromkeys(("minutes", "examples_per_second"), AMOUNT),
    **dict.fromkeys(("peak_memory_mib", "parameters", "processes", "steps"), COUNT),
}
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


def is_text(column):
    """Whether a column of our tables is text even if it looks like numbers, as a folder 007."""
    return column in TEXTS or of_type(column, str, Path)


def of_type(column, *types):
    """Whether a column belongs to a flag of one of these types."""
    flag = flags.find(column)
    return flag is not None and flag.type in types


def number_columns():
    """{column: Limits} of the columns of a results.csv with nothing but numbers and empty cells.

    None in place of Limits stands for any number.
    """
    whole = Limits(whole=True)
    found = {c: whole if of_type(c, int) else None for c in flags.columns() if is_of_numbers(c)}
    return found | NUMBERS


def is_of_numbers(column):
    """Whether a column belongs to a flag whose value is a number."""
    return of_type(column, int, float)


def wrong_line(path, line, has, do="mend or delete that line"):
    """A UserError about a line of a table. has: what is wrong in the line; do: what to do."""
    return UserError(f"{path}, line {line} has {has}: {do}")


def split_cells(path):
    """A CSV's separator, and its rows that are not empty, [(line number in the file, cells)]."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise wrong_line(
            path, line, "bytes that are not UTF-8", "save the table as UTF-8 or name another"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name another file") from None
    text = text.replace("\ufeff", "")  # the byte order mark; each of joined files may have one
    first = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    separator = max(",;\t", key=re.sub(r'"[^"]*"', "", first).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error:
        has = "a quoted cell that does not end, or goes on after its end"
        raise wrong_line(path, line, has) from None
    return separator, rows


def read_cells(path, keys, what):
    """The columns of a CSV, and its rows as [(line number in the file, {column: text})].

    A column is (its name, the number of columns of that name before it). Also understood are a byte
    order mark; semicolons or tabs instead of commas, and then decimal commas; empty rows; and
    further header lines, which are known by having all names in `keys`, and which hold for the rows
    after them. what: what a file without `keys` is, for the UserError.
    """
    separator, lines = split_cells(path)
    header, top, columns, rows = [], 1, {}, []
    for line, cells in lines:
        if not header or set(keys) <= set(cells):
            header, top = [(name, cells[:i].count(name)) for i, name in enumerate(cells)], line
            columns |= dict.fromkeys(header)
            missing = [name for name in keys if name not in cells]
            if missing:
                raise UserError(
                    f"{path} is {what} (line {line} has no column {missing[0]}): move "
                    "it away or name another file"
                )
            continue
        if len(cells) != len(header):
            has = f"{len(cells)} cells, but line {top} names {len(header)} columns"
            raise wrong_line(
                path,
                line,
                has,
                "mend or delete that line (commas in a cell need "
                "quotes around it, decimal commas semicolons between the cells)",
            )
        row = dict(zip(header, cells, strict=True))
        if separator != ",":
            row = {
                c: text
                if is_text(c[0]) or not DECIMAL_COMMA.fullmatch(text.strip())
                else text.replace(",", ".")
                for c, text in row.items()
            }
        rows.append((line, row))
    if not header:
        raise UserError(f"{path} is {what} (it is empty): move it away or name another file")
    # a spreadsheet pads shorter header lines with empty cells
    return [c for c in columns if c[0] or any(row.get(c) for _, row in rows)], rows


def header_of(path):
    """The cells of the first line of a CSV that is not empty; [] if there is none."""
    _, lines = split_cells(path)
    return lines[0][1] if lines else []


def read_checked_csv(path, keys, filled=(), numbers=(), what="no table of ours", dtype=None):
    """A CSV as a DataFrame, and the line number in the file of each of its rows.

    keys: columns that must be there; what: what a file without them is, for the error. filled:
    columns without an empty cell. numbers: columns with nothing but numbers and empty cells, or
    {column: Limits}. dtype: as in pandas.read_csv. Columns of text stay as written, be it 007 or
    NA. UserError for a cell against these rules, or a CSV of a form that read_cells does not know.
    """
    import pandas as pd

    columns, rows = read_cells(path, keys, what)
    cells = {c: [row.get(c, "") for _, row in rows] for c in columns}
    lines = [line for line, _ in rows]
    limits = numbers if isinstance(numbers, dict) else dict.fromkeys(numbers)
    clean, names = io.StringIO(), [name for name, _ in columns]
    csv.writer(clean).writerows([names, *zip(*cells.values(), strict=True)])
    clean.seek(0)
    table = pd.read_csv(clean, dtype=dtype)
    for i, ((name, _), texts) in enumerate(cells.items()):
        if is_text(name) and any(texts):
            table.isetitem(i, pd.Series([text or None for text in texts], dtype="str"))
        for line, text, missing in zip(lines, texts, table.iloc[:, i].isna(), strict=True):
            if fault := fault_of_cell(name, text, missing, filled, limits):
                raise wrong_line(path, line, *fault)
    return table, lines


def fault_of_cell(name, text, missing, filled, limits):
    """What is wrong with a cell, as `has` and `do` for wrong_line; None if nothing is."""
    if name in filled and (missing or not text.strip()):
        return [f"nothing in the column {name}"]
    if of_type(name, bool) and not missing and text.strip().lower() not in ("true", "false"):
        return [f"{text!r} in the column {name}, which holds True and False"]
    return find_fault(name, text, limits[name], missing) if name in limits else None


def fill_missing(table):
    """Add to a table of results the flags that did not exist yet when a row was written, at the
    values of flags.as_of_today. Returns the table.
    """
    import pandas as pd  # here and below, as only tables need it

    columns = {column: column.removeprefix("--") for column in table if column.startswith("--")}
    given = (
        {name: value for name, value in zip(columns.values(), row, strict=True) if pd.notna(value)}
        for row in table[list(columns)].itertuples(index=False, name=None)
    )
    rows = [(row, flags.as_of_today(row)) for row in given]
    for name in {name: None for row, today in rows for name in today if name not in row}:
        values = [np.nan if today.get(name) is None else today[name] for _, today in rows]
        if any(value is not np.nan for value in values):
            table[f"--{name}"] = values
    return table


def read_results(path, dtype=None, filled=RESULT):
    """A results.csv as a DataFrame, with today's flags, and with GLUE's tasks as GLUE spells them.

    UserError if it is no table of results, which has the columns method and seed, or if a cell is
    wrong. filled: columns without an empty cell.
    """
    what = "not a table of results"
    table, lines = read_checked_csv(path, RESULT, filled, number_columns(), what, dtype)
    if len(table) and table.seed.dtype == float:  # 1.0 is a seed of 1
        table["seed"] = table.seed.astype(int)
    if "task" in table:
        rows = table.to_dict("records")
        table["task"] = [
            task if task != task else read_task(task, f"{path}, line {line}", row)  # NaN: no task
            for line, task, row in zip(lines, table.task, rows, strict=True)
        ]
    return fill_missing(table)


def check_row(row, path):
    """A run's row, {column: value}, with a task of GLUE as GLUE spells it.

    path: of the run.json that the row was made from, for the UserError if a value is wrong.
    """
    limits = number_columns()
    for column, value in row.items():
        given = column in limits and value is not None and value != ""
        if given and (fault := find_fault(column, str(value), limits[column])):
            raise UserError(
                f"{path} has {fault[0]}: mend it, repeat the run, or move its folder away"
            )
    return row | {"task": read_task(row["task"], path, row)}


def append_result(path, row):
    """Put one run's row into a shared results.csv, under a lock and atomically; new columns widen
    the table.

    A row with the same output folder and start is replaced: a run that is killed right after this,
    and resumed, is in the table once; a run whose folder another run has overwritten stays in it.
    """
    import pandas as pd

    path = follow(path)  # so that two names of one table have one lock
    make_folder(path.parent)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        table = pd.DataFrame([{key: str(value) for key, value in row.items()}])
        if path.is_file():
            before = fill_missing(
                read_checked_csv(path, RESULT, what="not a table of results", dtype=str)[0]
            )
            keys = [key for key in ("started", "--output_dir") if key in before and key in table]
            same = (before[keys] == table[keys].iloc[0]).all(axis=1) & bool(keys)
            table = pd.concat([before[~same], table], ignore_index=True)
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)


def data_of(run, split):
    """The first 12 digits of the sha256 of a split's file; "" if an older run.json has none."""
    return run.get("data", {}).get(split, {}).get("sha256", "")[:12]


def result_row(run):
    """The row of results.csv for a run, {column: value}, from the content of its run.json.

    Flags that are None, empty or False have no cell. But a flag of later_flags has one if it is
    False: without it, the value of an earlier version would be filled in. KeyError or TypeError if
    run.json is incomplete; records.complete_run makes a UserError of either.
    """
    records.check_fields(run)
    later = {flag.name for flag, _ in flags.later_flags()}
    actions = {flag.name for flag in flags.named("action")}
    arguments = {
        name: value
        for name, value in flags.as_of_today(run["arguments"]).items()
        if name not in actions
        and value is not None
        and value != ""
        and (value is not False or name in later)
    }
    return {
        "method": run["method"],
        "task": arguments.pop("task_name"),
        "seed": arguments.pop("seed"),
        **run["results"],
        "minutes": round(run["train_seconds"] / 60, 2),
        "examples_per_second": round(run["examples_per_second"], 1),
        **{
            k: run[k] for k in ("peak_memory_mib",) if k in run
        },  # runs of earlier versions do not say
        "parameters": run["parameters"],
        "device": records.join_origins(run, lambda part: part["device"]),
        "machine": records.join_origins(run, lambda part: part["machine"]),
        "precision": run["precision"],
        "processes": run["processes"],
        "steps": run["steps"],
        "started": run["started"],
        "commit": records.join_origins(run, lambda part: part["commit"][:12]),
        "teacher": (run["teacher"] or "")[:12],
        "data": data_of(run, "train"),
        "dev_data": data_of(run, "dev"),
        "initial_weights": (run.get("initial_weights") or "")[:12],
        "memory": run.get("teacher_memory", {}).get("sha256", "")[:12],
        "memory_init": run.get("teacher_memory", {}).get("memory_init", ""),
        **{
            name: records.join_origins(run, lambda part, name=name: part["versions"][name])
            for name in ("torch", "transformers")
        },
        **{f"--{k}": v for k, v in arguments.items()},
    }
