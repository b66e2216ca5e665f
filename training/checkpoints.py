"""The state of a training, and checkpoints: a HuggingFace folder of the student plus that state.
Nothing is pickled.
"""

import math
import re
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common import UserError, atomic_path, read_json, remove_folder, sha256_of_file, write_json
from training.flags import as_of_today, is_shared


class Meter:
    """Running sums of named scalars. They stay on the device, so that no step waits for it, and are
    read only when logging or saving.

    Some scalars are means of values that may be undefined (see terms.Counted). undefined: for each
    scalar, how many of its values were undefined; of: name -> how many values were averaged, which
    is known without waiting for the device.
    """

    def __init__(self, names, device):
        self.names = list(names)
        self.undefined = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self.of = {}
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self.count = 0
        # for each scalar the step of its first NaN or inf, or 0
        self.first_bad = torch.zeros(len(self.names), dtype=torch.int64, device=device)

    def add(self, step, values, counted=None):
        """Add the scalars of a step, name -> value.

        counted: name -> terms.Counted, for the scalars whose values may be undefined.
        """
        for name, found in (counted or {}).items():
            self.undefined[self.names.index(name)] += found.undefined
            self.of[name] = self.of.get(name, 0) + found.of
        values = torch.stack(
            [torch.as_tensor(values[name]).detach().double() for name in self.names]
        )
        self.sums += values
        self.count += 1
        self.first_bad = torch.where(
            (self.first_bad == 0) & ~values.isfinite(), step, self.first_bad
        )

    def check(self):
        """UserError if a scalar has been NaN or inf, so that the run neither goes on nor saves."""
        bad = [
            (step, name)
            for step, name in zip(self.first_bad.tolist(), self.names, strict=True)
            if step
        ]
        if bad:
            step, name = min(bad, key=lambda pair: pair[0])
            raise UserError(
                f"the loss term {name} was not a finite number at step {step}: lower "
                "--learning_rate or the term's weight, or run without --fp16; earlier checkpoints "
                "are whole"
            )

    def read(self):
        """(means, undefined, most) of what was added since the last call; clears the sums.

        means: {name: mean}. undefined: {"undefined_NAME": number of undefined values}. most: the
        set of names of which more than half of the values were undefined.
        """
        means = dict(zip(self.names, (self.sums / max(self.count, 1)).tolist(), strict=True))
        counts = dict(zip(self.names, self.undefined.tolist(), strict=True))
        undefined = {f"undefined_{name}": int(counts[name]) for name in self.of}
        most = {name for name, of in self.of.items() if 2 * counts[name] > of}
        self.sums.zero_()
        self.undefined.zero_()
        self.count, self.of = 0, {}
        return means, undefined, most


def make_optimizer(args, model, losses, precision):
    """AdamW, with --weight_decay on all weights except biases, norms and the losses' own parameters
    (the student's memory), which have a learning rate of their own.
    """
    decayed = {p: p.ndim > 1 for p in model.parameters()}
    groups = [
        {"params": [p for p, d in decayed.items() if d], "weight_decay": args.weight_decay},
        {"params": [p for p, d in decayed.items() if not d], "weight_decay": 0.0},
    ]
    if own := list(losses.parameters()):
        rate = getattr(args, "student_memory_learning_rate", None)
        groups.append(
            {"params": own, "weight_decay": 0.0, "lr": args.learning_rate if rate is None else rate}
        )
    # with fp16 the loss scaler may skip a step, which a fused step hides from accelerate
    fused = precision != "fp16"
    return torch.optim.AdamW(groups, lr=args.learning_rate, eps=args.adam_epsilon, fused=fused)


class State:
    """All that a resumed run needs beside the student's weights: the losses' own parameters (such
    as the student's memory), optimizer, schedule, random numbers, running sums.
    """

    def __init__(self, args, accelerator, student, losses, total_steps, meter):
        self.accelerator, self.losses, self.meter = accelerator, losses, meter
        self.optimizer = accelerator.prepare(
            make_optimizer(args, student, losses, accelerator.mixed_precision)
        )
        warmup = args.warmup_steps or math.ceil(args.warmup_ratio * total_steps)
        self.scheduler = transformers.get_linear_schedule_with_warmup(
            self.optimizer.optimizer, warmup, total_steps
        )
        self.step, self.seconds, self.examples = 0, 0.0, 0

    def random_state(self):
        """This process's random state: {"cpu": (bytes,) uint8}, and on a GPU "cuda" as well."""
        states = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        return states

    def pack(self):
        """The state as (tensors by name, JSON-able dict). All processes must call it together."""
        tensors = {"meter.sums": self.meter.sums, "meter.undefined": self.meter.undefined}
        tensors |= {f"losses.{key}": value for key, value in self.losses.state_dict().items()}
        for i, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in entry.items()}
        for key, value in self.random_state().items():
            tensors[f"random.{key}"] = self.accelerator.gather(
                value[None].to(self.accelerator.device)
            )
        scaler = self.accelerator.scaler
        return {key: value.cpu().contiguous() for key, value in tensors.items()}, {
            "step": self.step,
            "seconds": self.seconds,
            "examples": self.examples,
            "meter_count": self.meter.count,
            "meter_of": self.meter.of,
            "scheduler": {
                k: v for k, v in self.scheduler.state_dict().items() if k != "lr_lambdas"
            },
            "scaler": scaler.state_dict() if scaler else None,
        }

    def unpack(self, tensors, progress):
        optimizer = self.optimizer.state_dict()
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                i, name = rest.split(".")
                optimizer["state"].setdefault(int(i), {})[name] = value
        self.losses.load_state_dict(
            {
                key.removeprefix("losses."): value
                for key, value in tensors.items()
                if key.startswith("losses.")
            }
        )
        groups = optimizer["param_groups"]
        self.scheduler.load_state_dict(progress["scheduler"] | {"lr_lambdas": [None] * len(groups)})
        for group, rate in zip(groups, progress["scheduler"]["_last_lr"], strict=True):
            group["lr"] = rate
        self.optimizer.load_state_dict(optimizer)
        self.meter.sums.copy_(tensors["meter.sums"])
        self.meter.count, self.meter.of = progress["meter_count"], progress.get("meter_of", {})
        if "meter.undefined" in tensors:  # not in checkpoints of earlier versions
            self.meter.undefined.copy_(tensors["meter.undefined"])
        rank = self.accelerator.process_index
        torch.set_rng_state(tensors["random.cpu"][rank].clone())  # of a view it reads other bytes
        if "random.cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][rank], self.accelerator.device)
        if progress["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(progress["scaler"])
        self.step, self.seconds, self.examples = (
            progress["step"],
            progress["seconds"],
            progress["examples"],
        )


def step_of(checkpoint):
    """The step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def checkpoints(folder):
    """The paths of the complete checkpoints in a folder, oldest first."""
    found = [
        p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)
    ]
    return sorted((p for p in found if (p / "progress.json").is_file()), key=step_of)


def save_checkpoint(output_dir, step, save_model, tensors, progress, keep):
    """Write checkpoint-STEP atomically and delete all but the newest `keep` (0 keeps all).

    save_model: function that writes the student into a folder. tensors, progress: as State.pack
    returns. progress.json also has the sha256 of every other file, by which `check_whole` tells
    damage.
    """
    with atomic_path(Path(output_dir) / f"checkpoint-{step}") as folder:
        save_model(folder)
        save_file(tensors, folder / "training_state.safetensors")
        sums = {
            str(file.relative_to(folder)): sha256_of_file(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        write_json(folder / "progress.json", progress | {"sha256": sums})
    for old in checkpoints(output_dir)[:-keep] if keep > 0 else []:
        remove_folder(old)


def check_whole(folder):
    """Refuse a checkpoint with a file that is missing or not as it was saved, by its sha256;
    earlier versions wrote none to compare with.
    """
    for name, expected in read_json(folder / "progress.json").get("sha256", {}).items():
        found = sha256_of_file(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            raise UserError(
                f"the checkpoint {folder} is damaged: {name} should have the sha256 "
                f"{expected[:12]}, found {found[:12]}: delete the checkpoint to go on from an "
                "older one or to start afresh"
            )


def restore(state, folder):
    """Load what save_checkpoint wrote to a folder into a State; UserError if a file is damaged."""
    try:
        state.unpack(
            load_file(folder / "training_state.safetensors"), read_json(folder / "progress.json")
        )
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {folder} is damaged ({type(error).__name__}: {error}): delete it to "
            "go on from an older one or to start afresh"
        ) from None


def run_settings(args):
    """The flags that decide what is trained, name -> value."""
    return {key: value for key, value in vars(args).items() if is_shared(key)}


def check_output(args, method):
    """Refuse an output folder that holds a finished run, a run of another kind or a model of other
    origin, unless --overwrite_output_dir is given. method: the run's, "memory" for train_memory.py.
    """
    output = Path(args.output_dir)
    if args.overwrite_output_dir:
        return
    run = read_json(output / "run.json")
    if run and (run.get("method") == "memory") != (method == "memory"):
        raise UserError(
            f"the output folder {output} holds a run of the method {run.get('method')}, and this "
            f"run is of {method} (memory: of train_memory.py): pass --overwrite_output_dir to "
            "replace it, or name another --output_dir"
        )
    if run.get("finished"):
        raise UserError(
            f"the output folder {output} holds a finished run: pass --overwrite_output_dir to "
            "replace it, or name another --output_dir"
        )
    if (output / "config.json").exists() and not (output / "run.json").exists():
        raise UserError(
            f"the output folder {output} holds a model that no run of this project wrote: name "
            "another --output_dir, or pass --overwrite_output_dir to replace it"
        )


def newest_checkpoint(args):
    """The checkpoint to resume by the flags, or None: the one that --resume_from_checkpoint names,
    else the newest of --output_dir, else of --student_model_name_or_path.

    UserError if there is none where a flag asks for one.
    """
    output, wanted = Path(args.output_dir), args.resume_from_checkpoint
    student = Path(getattr(args, "student_model_name_or_path", None) or output)
    if isinstance(wanted, str):
        if not (Path(wanted) / "progress.json").is_file():
            raise UserError(
                f"--resume_from_checkpoint {wanted} is no checkpoint of this project, as it has no "
                "progress.json: name a folder checkpoint-STEP that a run wrote"
            )
        own = {
            path.resolve(): path for path in checkpoints(output)
        }  # a link here to a checkpoint that was moved away counts as the run's own
        found = own.get(Path(wanted).resolve(), Path(wanted))
        if own and found.parent.resolve() != output.resolve() and not args.overwrite_output_dir:
            raise UserError(
                f"--resume_from_checkpoint {wanted} belongs to another run than the checkpoints in "
                f"{output}: name another --output_dir, or pass --overwrite_output_dir to replace "
                "them"
            )
        return found
    if not student.is_dir():
        raise UserError(
            f"--student_model_name_or_path {student} is no folder: give the --output_dir, or a "
            "folder with a checkpoint to go on from (the student's start is "
            "--model_name_or_path_for_copy)"
        )
    found = [*checkpoints(student), *(checkpoints(output) if student != output else [])]
    if wanted and not found:
        raise UserError(
            f"--resume_from_checkpoint: there is no checkpoint in {student}: name one, or leave "
            "the flag out to start afresh"
        )
    return found[-1] if found else None


def checkpoint_to_resume(args, settings):
    """The checkpoint that this run resumes, or None for a fresh start. UserError if the output
    folder or the checkpoint is not this run's, by its settings.
    """
    check_output(args, settings["method"])
    finished = read_json(Path(args.output_dir) / "run.json").get("finished")
    found = None if finished and not args.resume_from_checkpoint else newest_checkpoint(args)
    if found is None:
        return None
    then = as_of_today(read_json(found / "progress.json").get("settings", {}))
    if then == settings:
        check_whole(found)
        return found
    if args.overwrite_output_dir and not args.resume_from_checkpoint:
        return None
    afresh = "leave --resume_from_checkpoint out" if args.resume_from_checkpoint else AFRESH
    raise other_settings(found, then, settings, afresh)


AFRESH = "pass --overwrite_output_dir"  # how to start afresh a run that would be resumed


def other_settings(where, then, now, afresh=AFRESH):
    """A UserError that lists how the settings in the file or folder `where` differ from this run's.

    then, now: the settings there and here, name -> value. afresh: advice on how to start from the
    beginning.
    """
    changed = [
        f"{key} was {then.get(key)} and is {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    return UserError(
        f"{where} was written with other settings ({'; '.join(changed)}): run with those to go on, "
        f"{afresh} to start afresh, or name another --output_dir"
    )
