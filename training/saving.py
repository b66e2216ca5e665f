"""Saves a model so that transformers' Auto classes load it, and tries that before the training."""

import torch
import transformers

import common
from common import UserError
from training.models import fingerprint_of_model
from training.tokenizer import saved_reads_alike


def save_model(model, tokenizer, folder):
    """Write a normal HuggingFace folder: config.json with the label names, model.safetensors and
    the tokenizer.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def place_model(model, tokenizer, output):
    """Write the trained model into the output folder itself, file by file; config.json comes last,
    as it makes the model loadable.
    """
    with common.atomic_path(output / "trained-model") as folder:
        save_model(model, tokenizer, folder)
    for file in sorted(
        (output / "trained-model").iterdir(), key=lambda file: file.name == "config.json"
    ):
        common.move(file, output / file.name)
    common.remove_folder(output / "trained-model")


def check_saving(model, tokenizer, folder):
    """Save into a new folder, load from it with transformers' Auto classes, and refuse a model or
    tokenizer that does not come back the same.
    """
    try:
        save_model(model, tokenizer, folder)
        with torch.random.fork_rng(devices=[]):
            again = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True
            )
    except OSError:
        raise  # a disk's error is not the model's
    except Exception as error:  # every check of a configuration raises its own
        reason = " ".join(str(error).split())
        raise UserError(
            f"this {model.config.model_type} model could not be saved after its training, which is "
            f"not begun ({type(error).__name__}: {reason}): correct the config.json that it comes "
            "from, or take another model"
        ) from None
    if fingerprint_of_model(again) != fingerprint_of_model(model):
        raise UserError(
            f"this {model.config.model_type} model is not the same after saving and loading: take "
            "another model"
        )
    if not saved_reads_alike(tokenizer, folder):
        raise UserError(
            f"the tokenizer, {type(tokenizer).__name__}, is not the same after saving and loading: "
            "name another with --tokenizer_name"
        )
