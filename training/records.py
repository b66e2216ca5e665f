"""What a run leaves on disk beside its checkpoints: run.json, logs, results.csv."""

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import filelock
import numpy as np

from common import (
    UserError,
    atomic_path,
    follow,
    is_main_process,
    make_folder,
    naming,
    read_json,
    say,
)

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "scipy",
    "numpy",
    "pandas",
)
RESULT = ("method", "seed")  # the columns that every results.csv has
METRICS = ("mcc", "acc", "f1", "pearson", "spearmanr", "eval_loss")
PATHS = (
    "_dir",
    "_file",
    "_path",
    "_csv",
    "name_or_path",
    "name_or_path_for_copy",
    "tokenizer_name",
    "config_name",
    "teacher_cache",
)  # how flags of files and folders end
TEXTS = (
    "method",
    "task",
    "metric",
    "run",
    "form",
    "model",
    "device",
    "machine",
    "precision",
    "started",
    "commit",
    "teacher",
    "data",
    "memory",
    "memory_init",
    "torch",
    "transformers",
    "--resume_from_checkpoint",
    "--student_layers",
)
NUMBERS = (
    "seed",
    *METRICS,
    *(f"{name}_mm" for name in METRICS),
    "minutes",
    "examples_per_second",
    "peak_memory_mib",
    "parameters",
    "processes",
    "steps",
    *(
        f"--{name}"
        for name in (
            "student_num_hidden_layers",
            "max_seq_length",
            "max_train_samples",
            "max_eval_samples",
            "max_predict_samples",
            "logging_steps",
            "save_steps",
            "save_total_limit",
            "per_gpu_train_batch_size",
            "per_gpu_eval_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "weight_decay",
            "adam_epsilon",
            "max_grad_norm",
            "num_train_epochs",
            "max_steps",
            "warmup_steps",
            "warmup_ratio",
            "dataloader_num_workers",
            "alpha",
            "temperature",
            "beta",
            "gamma_i",
            "gamma_l",
            "gamma_g",
            "gamma_m",
            "gamma_d",
            "gamma_a",
            "student_memory_learning_rate",
            "relation_heads",
        )
    ),
)
BOOLEANS = tuple(
    f"--{name}"
    for name in (
        "do_lower_case",
        "mask_padding",
        "group_by_length",
        "copy_teacher",
        "do_layerwise",
        "internal",
        "bf16",
        "fp16",
        "compile",
        "no_cuda",
        "overwrite_cache",
        "overwrite_output_dir",
        "evaluate_during_training",
        "eval_all_checkpoints",
    )
)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


def read_run(folder):
    """The run.json of a run's folder, {} where there is none; its parts are objects."""
    path = Path(folder) / "run.json"
    found = read_json(path)
    for part in ("arguments", "results", "versions", "data", "teacher_memory"):
        if not isinstance(found.get(part, {}), dict):
            raise UserError(
                f"{path} is damaged ({part} is no JSON object): delete the folder it "
                "is in, or name another one"
            )
    return found


@contextlib.contextmanager
def complete_run(folder):
    """A UserError where what is done with the run.json of a folder misses something in it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{Path(folder) / 'run.json'} is not the record of a finished run "
            f"({missing}): repeat the run, or move its folder away"
        ) from None


def provenance():
    """Versions, commit, machine and command of this run."""
    here = Path(__file__).resolve().parent.parent

    def git(*words):
        with contextlib.suppress(OSError):
            return subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True
            ).stdout.strip()
        return ""

    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        # a copy may come without .git, or with that of another commit
        "commit": os.environ.get("FSD_COMMIT") or git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(
            git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        ),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in PACKAGES},
        },
        "machine": f"{processor()}, {os.cpu_count()} cores",
    }


def processor():
    """The processor's name, as in "AMD EPYC"."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        return next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
            platform.machine(),
        )
    return platform.processor() or platform.machine()


# ---- logs and tables -----------------------------------------------------------------------------


class JsonLines:
    """A log of one JSON object a line; opening it at a step drops what a killed run had written
    after that step.
    """

    def __init__(self, path, step):
        self.path = Path(path)
        found = read_log(self.path) if self.path.is_file() and step else []
        with atomic_path(self.path) as temporary:
            kept = "".join(line + "\n" for line, entry in found if entry["step"] <= step)
            temporary.write_text(kept, encoding="utf-8")

    def write(self, entry):
        with naming(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")


def as_of_today(settings):
    """A run's flags, name -> value, of whatever version wrote them, with what the later ones were
    then.

    Before --group_by_length existed, --mask_padding grouped rows by length (not of
    train_memory.py). Before --student_memory_init, M_s started with the mean and deviation of M_t's
    numbers. Before --student_layers, a student's layers were the first ones, as they are without
    it.
    """
    masked, clusters = (
        str(settings.get("mask_padding")).lower() == "true",
        "num_centroid" in settings,
    )
    added = {"group_by_length": masked and not clusters}
    if "warmup_steps" in settings:
        added["warmup_ratio"] = 0.0
    if "internal" in settings or "gamma_l" in settings:
        added["sample_features"] = "flat"
    if "gamma_m" in settings:
        added["student_memory_init"] = "matched"
    if "student_num_hidden_layers" in settings and not clusters:
        added["student_layers"] = None
    return settings | {name: value for name, value in added.items() if name not in settings}


def fill_missing(table):
    """A table of results with the flags that its rows did not have yet, by `as_of_today`."""
    import pandas as pd  # here and below, as a run without a table does without it

    columns = {column: column.removeprefix("--") for column in table if column.startswith("--")}
    given = (
        {name: value for name, value in zip(columns.values(), row, strict=True) if pd.notna(value)}
        for row in table[list(columns)].itertuples(index=False, name=None)
    )
    rows = list(map(as_of_today, given))
    for name in ("group_by_length", "student_memory_init", "warmup_ratio", "sample_features"):
        if any(name in row for row in rows):
            table[f"--{name}"] = [row.get(name, np.nan) for row in rows]
    return table


def read_log(path, numbers=(), note=None):
    """[(line, entry)] of a train_log.jsonl: JSON objects with a number as "step".

    What they have of `numbers` must be numbers, too. Other lines are left out, and `note` (by
    default stderr) is told which; but the last one may have been cut by a kill.
    """

    def real(value):
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    found, foreign, lines = [], [], Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            line = line.decode("utf-8").strip()
            entry = json.loads(line) if line else None
        except ValueError:
            entry = None
        known = isinstance(entry, dict) and real(entry.get("step")) and math.isfinite(entry["step"])
        if known and all(real(entry[name]) for name in numbers if name in entry):
            found.append((line, entry))
        elif line and number < len(lines):
            foreign.append(number)
    if foreign:
        some = ", ".join(map(str, foreign[:10]))
        some += f" and {len(foreign) - 10} more" if foreign[10:] else ""
        (note or (lambda text: say(f"note: {text}")))(
            f"left out of {path}, as no JSON object with a number as step: line {some}."
        )
    return found


def is_text(column):
    """Whether a column of our tables is text even where it looks like numbers, as a folder 007."""
    return column in TEXTS or (column.startswith("--") and column.endswith(PATHS))


def is_number(text):
    """Whether a cell is a number as pandas reads it: 1_000 is none."""
    try:
        return text.isascii() and "_" not in text and float(text) is not None
    except ValueError:
        return False


def wrong_line(path, line, has, do="mend or delete that line"):
    """The UserError of a line in a table."""
    return UserError(f"{path}, line {line} has {has}: {do}")


def split_cells(path):
    """The separator of a CSV and [(line in the file, cells)] of its rows that are not empty."""
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
    """The columns of a CSV, and [(line in the file, {column: text})] of its rows.

    A column is its name and the number of columns of that name before it. Read as meant are a byte
    order mark; semicolons or tabs instead of commas, and then decimal commas; empty rows; further
    header lines, known by the names `keys`, whose columns are those of the rows after them.
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
    """The names in the first line of a CSV that is not empty."""
    _, lines = split_cells(path)
    return lines[0][1] if lines else []


def read_table(path, keys, filled=(), numbers=(), what="no table of ours", dtype=None):
    """A CSV as pandas reads it (dtype: pandas' own), and the file's line of each row.

    keys: columns that must be there; what: what a file without them is. filled: columns without an
    empty cell. numbers: columns with nothing but numbers and empty cells. Columns of texts stay as
    written, be it 007 or NA. What is read as it is meant: see read_cells. Else a UserError.
    """
    import pandas as pd

    columns, rows = read_cells(path, keys, what)
    cells = {c: [row.get(c, "") for _, row in rows] for c in columns}
    lines = [line for line, _ in rows]
    clean, names = io.StringIO(), [name for name, _ in columns]
    csv.writer(clean).writerows([names, *zip(*cells.values(), strict=True)])
    clean.seek(0)
    table = pd.read_csv(clean, dtype=dtype)
    for i, ((name, _), texts) in enumerate(cells.items()):
        if is_text(name) and any(texts):
            table.isetitem(i, pd.Series([text or None for text in texts], dtype="str"))
        for line, text, missing in zip(lines, texts, table.iloc[:, i].isna(), strict=True):
            if name in filled and (missing or not text.strip()):
                raise wrong_line(path, line, f"nothing in the column {name}")
            if name in BOOLEANS and not missing and text.strip().lower() not in ("true", "false"):
                raise wrong_line(
                    path, line, f"{text!r} in the column {name}, which is of True and False"
                )
            if name in numbers and not missing and not is_number(text):
                comma = " (decimal commas need semicolons between the cells)" if "," in text else ""
                raise wrong_line(
                    path,
                    line,
                    f"{text!r} in the column {name}, which is of numbers",
                    f"mend or delete that line{comma}",
                )
    return table, lines


def read_results(path, dtype=None, filled=RESULT):
    """A results.csv as a table, known by its columns method and seed, with today's flags."""
    return fill_missing(
        read_table(path, RESULT, filled, NUMBERS, "not a table of results", dtype)[0]
    )


def append_result(path, row):
    """Put one run's row into a shared results.csv, under a lock and atomically; new columns widen
    the table.

    A run is known by its folder and start: one that is killed right after this and repeated is not
    in it twice, one that is overwritten by another stays.
    """
    import pandas as pd

    path = follow(path)  # so that two names of one table have one lock
    make_folder(path.parent)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        table = pd.DataFrame([{key: str(value) for key, value in row.items()}])
        if path.is_file():
            before = fill_missing(
                read_table(path, RESULT, what="not a table of results", dtype=str)[0]
            )
            keys = [key for key in ("started", "--output_dir") if key in before and key in table]
            same = (before[keys] == table[keys].iloc[0]).all(axis=1) & bool(keys)
            table = pd.concat([before[~same], table], ignore_index=True)
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)


def curves_folder(output_dir, run_file, step):
    """The TensorBoard folder of a run: --run_file, or one below it of the run's own where another
    run has that.

    A file .output_dir in a folder says whose it is, so that the same command finds its own again.
    Curves without one are of an earlier version: a run's own where it is resumed, at a step above
    0, else another's.
    """
    if not run_file:
        return os.path.join(output_dir, "tensorboard")
    here, whole = Path(os.path.realpath(output_dir)), Path(run_file)
    make_folder(whole)
    with filelock.FileLock(whole / ".output_dir.lock"):
        folders = [whole]
        while len(folders) == 1 or folders[-1].exists():
            folders.append(whole / (here.name + (f"-{len(folders)}" if len(folders) > 1 else "")))
        owners = [
            read_text(folder / ".output_dir") or owner_before(folder, here, step)
            for folder in folders
        ]
        mine = owners.index(str(here)) if str(here) in owners else owners.index("")
        make_folder(folders[mine])
        with atomic_path(folders[mine] / ".output_dir") as temporary:
            temporary.write_text(str(here), encoding="utf-8")
    if mine:
        say(
            f"--run_file {run_file} has the curves of another run ({owners[0]}): this run's go to "
            f"{folders[mine]}"
        )
    return str(folders[mine])


def owner_before(folder, here, step):
    """Whose the curves in a folder are that no .output_dir tells of; "" where there are none."""
    if not any(folder.glob("events.out.tfevents.*")):
        return ""
    own = step > 0 or here in Path(os.path.realpath(folder)).parents
    return str(here) if own else "of an earlier version"


def read_text(path):
    """The content of a text file, "" where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class Log:
    """train_log.jsonl and TensorBoard side by side; silent outside the main process."""

    def __init__(self, output_dir, run_file, step):
        self.writer = self.lines = None
        if is_main_process():
            from torch.utils.tensorboard import SummaryWriter  # here, as a run alone writes curves

            self.lines = JsonLines(Path(output_dir) / "train_log.jsonl", step)
            self.folder = curves_folder(output_dir, run_file, step)
            with naming(self.folder):
                self.writer = SummaryWriter(self.folder, purge_step=step + 1)

    def __call__(self, step, **groups):
        """Write the scalars of a step, group=name -> value; TensorBoard shows a group's curves
        together.
        """
        if self.writer:
            self.lines.write(
                {"step": step} | {k: v for scalars in groups.values() for k, v in scalars.items()}
            )
            with naming(self.folder):
                for group, scalars in groups.items():
                    for name, value in scalars.items():
                        self.writer.add_scalar(f"{group}/{name}", value, step)
                self.writer.flush()

    def histogram(self, step, name, values):
        if self.writer:
            with naming(self.folder):
                self.writer.add_histogram(name, np.asarray(values), step)

    def figure(self, step, name, figure):
        if self.writer:
            with naming(self.folder):
                self.writer.add_figure(name, figure, step)

    def close(self, step, settings, metrics):
        """The final dev metrics, the HPARAMS tab (settings with these metrics), and the end of the
        file.
        """
        if self.writer:
            plain = {
                k: v if isinstance(v, (int, float, bool, str)) else str(v)
                for k, v in settings.items()
            }
            with naming(self.folder):
                for name, value in metrics.items():
                    self.writer.add_scalar(f"dev/{name}", value, step)
                if plain:
                    self.writer.add_hparams(
                        plain, {f"final/{k}": v for k, v in metrics.items()}, run_name="."
                    )
                self.writer.close()


def result_row(run):
    """The row of results.csv for a run, from the content of its run.json."""
    arguments = {
        k: v
        for k, v in as_of_today(run["arguments"]).items()
        if k not in ("do_train", "do_eval", "do_predict")
        and v is not None
        and v != ""
        and (v is not False or k == "group_by_length")
    }  # a row without it is an older one
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
        "device": run["device"],
        "machine": run["machine"],
        "precision": run["precision"],
        "processes": run["processes"],
        "steps": run["steps"],
        "started": run["started"],
        "commit": run["commit"][:12],
        "teacher": (run["teacher"] or "")[:12],
        "data": run.get("data", {}).get("train", {}).get("sha256", "")[:12],
        "memory": run.get("teacher_memory", {}).get("sha256", "")[:12],
        "memory_init": run.get("teacher_memory", {}).get("memory_init", ""),
        "torch": run["versions"]["torch"],
        "transformers": run["versions"]["transformers"],
        **{f"--{k}": v for k, v in arguments.items()},
    }
