"""The logs of a run: train_log.jsonl and TensorBoard."""

import json
import math
import os
from pathlib import Path

import filelock
import numpy as np

from common import atomic_path, is_main_process, make_folder, naming, say


class JsonLines:
    """A log with one JSON object per line. Opening it at a step drops the lines of later steps,
    which a killed run wrote.
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


def read_log(path, numbers=(), note=None):
    """[(line, entry)] of the lines of a train_log.jsonl that are JSON objects with a number as
    "step".

    numbers: names whose values, in an entry that has them, must be numbers too. Other lines are
    left out; note(text), by default a line on stderr, says which. Nothing is said of the last line,
    as a kill may have cut it.
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


def curves_folder(output_dir, run_file, step):
    """The TensorBoard folder of a run: --run_file, or a folder below it if that has another run's
    curves; without --run_file, tensorboard/ in the output folder.

    A file .output_dir in each folder names the output folder whose curves it has, so that the same
    command finds its own again. Curves without that file are of an earlier version: owner_before
    tells whose they are.
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
    """The owner of curves in a folder without .output_dir; "" if there are no curves.

    It is `here`, this run's output folder, if the run is resumed at a step above 0, or if the
    folder lies in `here`; else a text for another run.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return ""
    own = step > 0 or here in Path(os.path.realpath(folder)).parents
    return str(here) if own else "of an earlier version"


def read_text(path):
    """The content of a text file, "" if it does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class Log:
    """Writes train_log.jsonl and TensorBoard side by side, in the main process alone."""

    def __init__(self, output_dir, run_file, step):
        self.writer = self.lines = None
        if is_main_process():
            from torch.utils.tensorboard import SummaryWriter  # here, as only runs need it

            self.lines = JsonLines(Path(output_dir) / "train_log.jsonl", step)
            self.folder = curves_folder(output_dir, run_file, step)
            with naming(self.folder):
                self.writer = SummaryWriter(self.folder, purge_step=step + 1)

    def __call__(self, step, **groups):
        """Write the scalars of a step, group={name: value}; TensorBoard shows a group together."""
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
        """Write the final dev metrics and the HPARAMS tab (settings and metrics), and close."""
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
