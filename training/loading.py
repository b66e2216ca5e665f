"""Loads configurations from a folder or the Hub, and makes one sentence of any error in loading."""

import argparse
import contextlib
import difflib
import pickle
import re
from pathlib import Path

import transformers

from common import UserError

OUTPUTS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def has_teacher(args):
    """True for the flags of a script that distils, which have --copy_teacher."""
    return hasattr(args, "copy_teacher")


def for_student(args):
    """The flags with the student's own model type and length, a copy; args itself if no teacher."""
    if not has_teacher(args):
        return args
    own = argparse.Namespace(**vars(args))
    own.model_type = args.student_model_type  # may be another than the teacher's
    own.max_seq_length = args.student_max_seq_length or args.max_seq_length
    return own


def hub_arguments(args):
    return {"cache_dir": args.cache_dir} if args.cache_dir else {}


@contextlib.contextmanager
def loading(what, name):
    """A context in which any error of loading becomes a UserError of one sentence.

    what, name: what is loaded, in a word as "teacher", and its folder or hub name.
    """
    name = str(name)
    refuse_missing_folder(what, name)
    try:
        yield
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"cannot load the {what} {name}: its pytorch_model.bin holds more than weights"
            f"{f' ({needs[1]})' if needs else ''}, and no code in a file is ever run: save it "
            "again with save_pretrained, as safetensors"
        ) from None
    except Exception as error:  # tokenizers and safetensors raise kinds of their own
        reason = str(error).strip().split("\n")[0]
        where = "" if Path(name).is_dir() else f"; there is no folder {name} here either"
        raise UserError(
            f"cannot load the {what} {name}: expected a folder with config.json, model.safetensors "
            f"and a tokenizer, or a hub name that can be reached ({type(error).__name__}: "
            f"{reason}){where}"
        ) from None


def refuse_missing_folder(what, name):
    """UserError if `name` is a file, or can only be meant as a folder and does not exist; the error
    then names a similar folder, if there is one.
    """
    folder = Path(name)
    if folder.exists():
        if not folder.is_dir():
            raise UserError(f"the {what} {name} is a file: give the folder that it is in")
        return
    beside = len(folder.parts) == 2 and folder.parent.is_dir()
    if not (beside or folder.is_absolute() or name.startswith(".") or name.count("/") > 1):
        return  # a hub name is NAME or OWNER/NAME
    there = (
        sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        if folder.parent.is_dir()
        else []
    )
    close = difflib.get_close_matches(folder.name, there, 1)
    raise UserError(
        f"the {what} {name} does not exist{f'; {folder.parent} has {close[0]}' if close else ''}: "
        "give a folder with config.json, or a model's hub name"
    )


def load_config(args, name, what, **changes):
    """A model's configuration, with the choice of its outputs reset (OUTPUTS); UserError if it
    cannot be loaded or is not of the family that --model_type names.

    what: the model, in a word. changes: fields of the configuration to set.
    """
    family = (getattr(args, "model_type", None) or "").lower()
    with loading(what, name):
        try:
            config = transformers.AutoConfig.from_pretrained(
                name, trust_remote_code=False, **hub_arguments(args), **changes
            )
        except ValueError:  # written by a version without model_type
            if family not in transformers.CONFIG_MAPPING:
                raise
            config = transformers.CONFIG_MAPPING[family].from_pretrained(
                name, **hub_arguments(args), **changes
            )
    if family and config.model_type != family:
        raise UserError(
            f"--model_type is {args.model_type}, but the {what} {name} is of type "
            f"{config.model_type}: pass its own type or another model"
        )
    if config.num_hidden_layers < 1:
        raise UserError(
            f"the config.json of the {what} {name} has num_hidden_layers "
            f"{config.num_hidden_layers}: a model needs at least 1 layer, so correct it or give "
            "another model"
        )
    for key, value in OUTPUTS.items():
        setattr(config, key, value)
    return config
