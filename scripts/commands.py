"""Read a training command: its flags, the kind of run, and the sizes of model and teacher cache
(the outputs of the teacher, stored on disk).

No command is started, and torch is not needed.
"""

import contextlib
import importlib
import os
import shlex
from pathlib import Path
from typing import NamedTuple

import common
from common import UserError
from training import flags
from training.cache_sizes import stored
from training.methods import read_methods

BERT_BASE = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
}
CHOSEN = "BEST_"  # begins the placeholder of a value that an earlier stage of a plan will choose


class Command(NamedTuple):
    """A command: the script's name, and {flag without dashes: value}, "" for a bare flag."""

    script: str
    flags: dict

    def number(self, name, default):
        """The value of the flag `name` as a float.

        The default if the flag is not given, or its value is a placeholder; UserError if it is no
        number.
        """
        text = str(self.flags.get(name, default))
        try:
            return float(default if text.startswith(CHOSEN) else text)
        except ValueError:
            raise UserError(
                f"--{name} of {self.script} is {text}, but must be a number: mend that command"
            ) from None

    @property
    def precision(self):
        return "bf16" if "bf16" in self.flags else "fp16" if "fp16" in self.flags else "no"

    @property
    def form(self):
        """The name of the row of results/step.csv whose speed is nearest to this command's.

        The row FSD_ILG stands for all structures and baselines, floor for the student alone.
        """
        if self.script == "train_memory.py":
            return "teacher, forward"
        if self.script == "train_teacher.py":
            alone = {"student_num_hidden_layers", "student_layers"} & self.flags.keys()
            return "floor" if alone else "teacher, trained"
        form = "VKD" if self.number("beta", 1) == 0 else "FSD_ILG"
        form += ", cached" if "teacher_cache" in self.flags else ""
        if "mask_padding" in self.flags:
            # the table's masked rows are measured with rows grouped by length
            form += ", masked" + ("" if "group_by_length" in self.flags else ", not grouped")
        return form

    @property
    def structures(self):
        """The letters, of i, l and g, of the FSD structures whose weight is not 0."""
        if self.number("beta", 1) == 0:
            return ""
        if self.script == "glue_with_cka_ilg.py":
            return "".join(letter for letter in "ilg" if self.number(f"gamma_{letter}", 1))
        if self.script == "glue_with_cka_g.py":
            return "g"
        return "i" if "internal" in self.flags else "l"

    @property
    def kind(self):
        """(script, form, precision): runs that agree in these are taken to be equally fast."""
        return self.script, self.form, self.precision

    @property
    def batch_size(self):
        """The number of samples in an optimizer step."""
        batch = self.number("per_gpu_train_batch_size", 8)
        return batch * self.number("gradient_accumulation_steps", 1)


def words_for(script, words):
    """The words without the flags, and their values, that only other scripts take.

    script: the path of a script in this repository. words: flags that the user gave for all runs.
    A flag that no script of this repository has is left in, so that the script refuses it.
    """
    module = script.removesuffix(".py").replace("/", ".")
    parser = importlib.import_module(module).make_parser()
    ours = {name for flag in flags.known().values() for name in (flag.name, *flag.aliases)}
    kept, keep = [], True
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            keep = parser.takes(name) or name not in ours
        kept += [word] * keep
    return kept


def read_flags(words):
    """{flag: its value} of the words of a command: ["--a", "1", "--b"] -> {"a": "1", "b": ""}.

    If a flag is given twice, its last value counts; per_device_ in a name becomes per_gpu_.
    """
    found, name = {}, None
    for word in words:
        if word.startswith("--"):
            word = word.removeprefix("--").replace("per_device_", "per_gpu_")
            name, _, value = word.partition("=")
            found[name] = value
        elif name:
            found[name], name = word, None
    return {name: os.path.expanduser(value) for name, value in found.items()}


def read_command(line, number):
    """The Command in a line of a plan. number: the line's number, for the error."""
    with contextlib.suppress(ValueError):  # no shell quoting
        words = shlex.split(line)
        for i, word in enumerate(words):
            if word.endswith(".py"):
                return Command(Path(word).name, read_flags(words[i + 1 :]))
    raise UserError(
        f"expected the command of a Python script, in shell quoting, found in line {number}: "
        f"{line.strip()}"
    )


# ---- sizes ---------------------------------------------------------------------------------------


def shape_of(command):
    """The numbers that decide the size of a command's model, a dict with the keys of BERT_BASE.

    They are read from config.json in the model's folder; BERT_BASE if there is no such file here.
    """
    for name in ("model_name_or_path_for_copy", "model_name_or_path"):
        if name not in command.flags:
            continue
        if config := common.read_json(Path(command.flags[name], "config.json")):
            return {key: config.get(key, value) for key, value in BERT_BASE.items()}
    return BERT_BASE


def parameters(shape, layers, classes):
    """The number of weights of a BERT classifier. shape: as shape_of returns it."""
    d, inner = shape["hidden_size"], shape["intermediate_size"]
    tokens = shape["vocab_size"] + shape["max_position_embeddings"] + shape["type_vocab_size"]
    embeddings = (tokens + 2) * d  # 2: weight and bias of LayerNorm
    attention, feed_forward, norms = 4 * (d * d + d), 2 * d * inner + inner + d, 4 * d
    pooler, classifier = d * d + d, classes * (d + 1)
    return embeddings + layers * (attention + feed_forward + norms) + pooler + classifier


def student_layers(command, shape):
    """The number of layers of the model that a command trains."""
    if picked := command.flags.get("student_layers"):
        return len(picked.split(","))
    whole = shape["num_hidden_layers"]
    usual = whole if command.script == "train_teacher.py" else max(1, whole // 2)
    return int(command.number("student_num_hidden_layers", usual))


def needs_of(command, shape):
    """(kinds of the teacher's outputs, layers) that a command needs.

    The kinds are a set, such as {"logits", "tokens"}; the layers are the numbers of the teacher's
    hidden states that it needs.
    """
    penultimate = [shape["num_hidden_layers"] - 1]
    if command.script == "train_memory.py":
        return {"features"}, penultimate
    step = shape["num_hidden_layers"] // student_layers(command, shape) or 1
    every = range(step, shape["num_hidden_layers"], step)
    layerwise = "do_layerwise" in command.flags
    if command.script != "glue_with_baseline.py":
        of = {"i": "tokens", "l": "features", "g": "relations"}
        needs = {"logits"} | {of[letter] for letter in command.structures}
        return needs, every if layerwise else penultimate
    method = read_methods().get(command.flags.get("method"))
    if method is None:  # none, VKD
        return {"logits"}, penultimate
    return {"logits", method.needs}, every if method.layers == "every" or layerwise else penultimate


def cache_entries(command, shape, classes, centroids):
    """{(kind, layer, memory): bytes per sample} of what a command stores in its teacher cache.

    kind: such as "logits" or "relations". memory: the path of the teacher's memory if the kind
    depends on it, else None. shape: as shape_of returns it. classes, centroids: their numbers.
    """
    if "teacher_cache" not in command.flags:
        return {}
    needs, layers = needs_of(command, shape)
    wanted = stored(
        needs,
        layers,
        length=int(command.number("max_seq_length", 128)),
        hidden_size=shape["hidden_size"],
        num_labels=classes,
        centroids=centroids,
    )
    memory = command.flags.get("teacher_memory_path")
    return {
        (kind, layer, memory if kind == "relations" else None): entry.bytes
        for kind, layers in wanted.items()
        for layer, entry in layers.items()
    }
