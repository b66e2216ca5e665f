"""Loads classifiers with transformers' Auto classes: the teacher, and what runs have trained."""

import hashlib
import json
import os
import re
from pathlib import Path

import torch
import transformers

from common import UserError, say
from training import classes
from training.loading import for_student, hub_arguments, load_config, loading
from training.reading import check_reading
from training.tokenizer import check_tokenizer

WRAPPERS = r"^(module\.|_orig_mod\.)+"  # DataParallel's and torch.compile's prefixes of weights
# else, in a thread, transformers has the Hub convert a .bin to safetensors
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def mask_without_waiting():
    """Have transformers make every attention mask. By default it leaves out a mask without padding,
    and must wait for the device to know that.
    """
    from transformers.masking_utils import sdpa_mask  # here, as it imports for seconds

    def always(*args, **kwargs):
        return sdpa_mask(*args, **kwargs | {"allow_is_bidirectional_skip": False})

    transformers.AttentionMaskInterface.register("sdpa", always)


def load_classifier(name, config, what, **options):
    """The classifier of a folder or hub name, safetensors or pytorch_model.bin, as float32.

    Returns (model, lacking, layers). lacking: {name: description} of the model's weights that the
    source lacks or has in another shape. layers: the number of layers in the source if that is more
    than the configuration says, else 0.
    """

    def load(**more):
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            weights_only=True,
            trust_remote_code=False,
            **options,
            **more,
        )

    state = torch.get_rng_state()
    with loading(what, name):
        model, info = load()
        if any(re.match(WRAPPERS, key) for key in info["unexpected_keys"]):
            torch.set_rng_state(state)  # a new head draws from it
            model, info = load(key_mapping={WRAPPERS: ""})
            model._weight_conversions = (
                None  # else transformers would look for the prefix when it saves
            )
    mismatched = {
        key: f"{key}, {tuple(found)} there and {tuple(wanted)} by its config.json"
        for key, found, wanted in info["mismatched_keys"]
    }
    surplus = {
        int(found[1]) + 1
        for key in info["unexpected_keys"]
        if (found := re.search(r"\.(\d+)\.", key))
    }
    lacking = {key: key for key in info["missing_keys"]} | mismatched
    return model.float(), lacking, max(surplus, default=0)


def load_finished(name, config, what, task, **options):
    """A classifier with its classes in the task's order; UserError if the source lacks weights, or
    has more layers than its config.json says.
    """
    model, lacking, layers = load_classifier(name, config, what, **options)
    if layers > config.num_hidden_layers:
        raise UserError(
            f"the {what} {name} has weights of {layers} layers, but its config.json says "
            f"{config.num_hidden_layers}, and the others would be left out: correct its "
            "num_hidden_layers"
        )
    if lacking:
        raise UserError(
            f"the {what} {name} is not fine-tuned, or not stored whole: it lacks {len(lacking)} "
            f"weights, the first {lacking[min(lacking)]}; fine-tune it on {task.name} with "
            "train_teacher.py first"
        )
    if note := classes.put_in_order(model, task):
        say(f"note: the {what} {name} {note}")
    return model


def check_labels(task, config, name, what="teacher"):
    """Refuse a model with another number of labels than the task's. what: the model, in a word."""
    expected = 1 if task.labels is None else len(task.labels)
    found = config.num_labels
    if found == expected:
        return
    advice = f"fine-tune one on {task.name} with train_teacher.py"
    if not task.is_glue and found == 1:  # as a model that learnt scores has
        advice = f"pass --do_regression if the labels are scores, or {advice}"
    elif not task.is_glue and expected == 1:
        advice = f"leave --do_regression out if the labels are classes, or {advice}"
    raise UserError(
        f"the {what} {name} has {found} label{'s' * (found != 1)}, but {task.name} has {expected}: "
        f"{advice}"
    )


def fingerprint_of_model(model):
    """The sha256 of a model's weights by name, as hex: equal for equal weights, whichever file or
    hub they came from.
    """
    return fingerprint_of_weights(model.state_dict())


def fingerprint_of_weights(weights):
    """The same of some of a model's weights, {name: tensor}."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_of_config(config):
    """The sha256 of a model's configuration, as hex, without path and transformers' version."""
    content = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def load_teacher(args, task, tokenizer):
    """The fine-tuned teacher: eval mode, no gradient, checked against the task."""
    name = args.model_name_or_path
    config = load_config(args, args.config_name or name, "teacher")
    check_labels(task, config, name)
    check_tokenizer(args, tokenizer, config, name)
    model = load_finished(name, config, "teacher", task, **hub_arguments(args))
    check_reading(model, tokenizer, args.max_seq_length, f"teacher {name}")
    return model.eval().requires_grad_(False)


def find_trained(folder):
    """The Path of a folder with a trained model; UserError if it has none."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"there is no trained model in {folder}: run with --do_train first, or name its folder"
        )
    return Path(folder)


def load_trained(args, task, folder):
    """(model, tokenizer) of a trained model in a folder, loaded with transformers' Auto classes;
    UserError if they do not fit the task.
    """
    folder, args = find_trained(folder), for_student(args)
    config = load_config(args, str(folder), "model")
    check_labels(task, config, folder, "model")
    model = load_finished(str(folder), config, "model", task)
    with loading("tokenizer", folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_tokenizer(args, tokenizer, config, folder)
    check_reading(model, tokenizer, args.max_seq_length, f"model {folder}")
    return model, tokenizer
