"""Teacher, student and tokenizer: loaded with transformers' Auto classes, refused where they do not fit together."""
import contextlib
import hashlib
import json
import os
from pathlib import Path

import transformers
from tokenizers import normalizers

from training.records import UserError


def mask_without_waiting():
    """Have transformers make every attention mask: to leave out one without padding, it would wait for the device."""
    from transformers.masking_utils import sdpa_mask  # here, as it imports for seconds

    def always(*args, **kwargs):
        return sdpa_mask(*args, **kwargs | {"allow_is_bidirectional_skip": False})
    transformers.AttentionMaskInterface.register("sdpa", always)


def hub_arguments(args):
    return {"cache_dir": args.cache_dir} if args.cache_dir else {}


@contextlib.contextmanager
def loading(what, name):
    """One sentence for whatever transformers cannot load."""
    if (os.sep in name or name.startswith(".")) and not Path(name).exists() and name.count("/") != 1:
        raise UserError(f"the {what} {name} does not exist: give a folder with config.json, or a model's hub name")
    try:
        yield
    except Exception as error:  # tokenizers and safetensors raise kinds of their own
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the {what} {name}: expected a folder with config.json, model.safetensors and a "
                        f"tokenizer, or a hub name that can be reached ({type(error).__name__}: {reason})") from None


def load_config(args, name, what, **changes):
    """The configuration of a model, of the family that --model_type names."""
    with loading(what, name):
        config = transformers.AutoConfig.from_pretrained(name, **hub_arguments(args), **changes)
    if args.model_type and config.model_type != args.model_type.lower():
        raise UserError(f"--model_type is {args.model_type}, but the {what} {name} is of type {config.model_type}: "
                        "pass its own type or another model")
    return config


def load_tokenizer(args):
    """The tokenizer of the model, lower-casing when asked to; it is saved so with the student."""
    name = args.tokenizer_name or args.model_name_or_path
    with loading("tokenizer", name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **hub_arguments(args))
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token, which batches of equal length need")
    if args.do_lower_case and tokenizer.tokenize("FSD") != tokenizer.tokenize("fsd"):
        backend = tokenizer.backend_tokenizer
        steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
        backend.normalizer = normalizers.Sequence(steps)
    return tokenizer


def check_tokenizer(args, tokenizer, config, name):
    """Refuse a tokenizer whose vocabulary or length is not the model's."""
    size, rows = len(tokenizer), config.vocab_size
    if size > rows or rows - size > 1024:  # some checkpoints pad their embeddings to a round number
        raise UserError(f"the tokenizer {args.tokenizer_name or args.model_name_or_path} has {size} tokens, but the "
                        f"model {name} has embeddings for {rows}: pass the model's own tokenizer as --tokenizer_name")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 10 ** 9)
    if 0 < longest < args.max_seq_length:
        raise UserError(f"--max_seq_length is {args.max_seq_length}, but {name} takes at most {longest} tokens")


def check_vocabulary(args, tokenizer, source):
    """Refuse to copy layers from a model that reads the same text as other token ids."""
    if Path(source).is_dir() and not any(Path(source).glob("*token*")) and not any(Path(source).glob("vocab*")):
        return  # the source has no tokenizer of its own to compare
    with loading("tokenizer", source):
        other = transformers.AutoTokenizer.from_pretrained(source, **hub_arguments(args))
    differ = dict(tokenizer.get_vocab().items() ^ other.get_vocab().items())
    if differ:
        raise UserError(f"the teacher's tokenizer and that of {source} differ in {len(differ)} tokens, such as "
                        f"{min(differ)!r}: copy the student from a model with the teacher's vocabulary")


def check_labels(task, config, name, what="teacher"):
    """Refuse a model with another number or order of labels than the task's."""
    expected = 1 if task.labels is None else len(task.labels)
    if config.num_labels != expected:
        raise UserError(f"the {what} {name} has {config.num_labels} labels, but {task.name} has {expected}: fine-tune "
                        f"one on {task.name} with train_teacher.py")
    found = [str(config.id2label[i]).lower() for i in range(expected)]
    if task.labels and set(found) == set(task.labels) and found != list(task.labels):
        raise UserError(f"the {what} {name} has its labels in the order {', '.join(found)}, but {task.name} is read "
                        f"as {', '.join(task.labels)}: fine-tune one with train_teacher.py, or reorder its classifier")


def fingerprint_of_config(config):
    """The sha256 of a model's configuration, as hex, without where it was stored and by which version."""
    content = {key: value for key, value in config.to_dict().items()
               if key not in ("_name_or_path", "transformers_version")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def has_teacher(args):
    """True for the scripts that distil, whose parser has --copy_teacher."""
    return hasattr(args, "copy_teacher")


def load_teacher(args, task, tokenizer):
    """The fine-tuned teacher: eval mode, no gradient, checked against the task."""
    name = args.model_name_or_path
    config = load_config(args, args.config_name or name, "teacher")
    check_labels(task, config, name)
    check_tokenizer(args, tokenizer, config, name)
    with loading("teacher", name):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True, **hub_arguments(args))
    if info["missing_keys"]:
        raise UserError(f"the teacher {name} is not fine-tuned: it lacks {sorted(info['missing_keys'])[0]}; fine-tune "
                        f"it on {task.name} with train_teacher.py first")
    return model.float().eval().requires_grad_(False)


def load_student(args, task, tokenizer, teacher, checkpoint):
    """The model to train: from a checkpoint; or as a student of `teacher`; or, without a teacher, pretrained."""
    if checkpoint:
        return build_model(args, task, tokenizer, str(checkpoint), copy=True, layers=None)
    if teacher is None:
        return build_model(args, task, tokenizer, args.model_name_or_path, True, args.student_num_hidden_layers,
                           args.config_name)
    family = teacher.config.model_type
    if (args.student_model_type or family).lower() != family:
        raise UserError(f"--student_model_type is {args.student_model_type}, but the teacher is of type {family}: "
                        "teacher and student must be of one family")
    source = args.model_name_or_path_for_copy or args.model_name_or_path
    layers = args.student_num_hidden_layers or max(1, teacher.config.num_hidden_layers // 2)
    if args.copy_teacher and args.model_name_or_path_for_copy:
        check_vocabulary(args, tokenizer, source)
    return build_model(args, task, tokenizer, source, args.copy_teacher, layers)


def build_model(args, task, tokenizer, source, copy, layers, config_name=""):
    """A model of `layers` layers (None: all) shaped like `source`, with its first layers' weights if `copy`.

    source: folder or hub name. The head is new unless the source has one for as many labels.
    """
    shape = config_name or source
    depth = load_config(args, shape, "model").num_hidden_layers
    if copy and (layers or depth) > depth:
        raise UserError(f"cannot copy {layers} layers from {source}, which has {depth}: pass "
                        f"--student_num_hidden_layers {depth} or less, or copy from another model")
    names = task.labels or ("score",)
    config = load_config(args, shape, "model", num_hidden_layers=layers or depth, num_labels=len(names),
                         id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
                         problem_type="single_label_classification" if task.labels else "regression")
    check_tokenizer(args, tokenizer, config, source)
    auto = transformers.AutoModelForSequenceClassification
    with loading("model", source):
        if not copy:
            return auto.from_config(config).float()
        model, info = auto.from_pretrained(source, config=config, use_safetensors=True, output_loading_info=True,
                                           ignore_mismatched_sizes=True, **hub_arguments(args))
    lacking = [*info["missing_keys"], *(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])]
    lost = sorted(key for key in lacking if not is_head(model, key))
    if lost:
        raise UserError(f"{source} lacks {len(lost)} weights of a {config.model_type} encoder, the first {lost[0]}: "
                        "give a model of the same family, stored whole")
    return model.float()


def is_head(model, key):
    """True for the weights that fine-tuning may start anew: the pooler and all that is outside the encoder."""
    return not key.startswith(model.base_model_prefix + ".") or ".pooler." in key


def find_trained(folder):
    """The path of a folder with a trained model, or a UserError."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"there is no trained model in {folder}: run with --do_train first, or name its folder")
    return Path(folder)


def load_trained(args, task, folder):
    """A trained model as anybody would load it, with its tokenizer; refused where it does not fit the task."""
    folder = find_trained(folder)
    with loading("trained model", str(folder)):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    check_labels(task, model.config, folder, "model")
    check_tokenizer(args, tokenizer, model.config, folder)
    return model, tokenizer


def penultimate_pair(student, teacher):
    """The indices of the penultimate hidden states, (student's, teacher's)."""
    return student.config.num_hidden_layers - 1, teacher.config.num_hidden_layers - 1


def layer_pairs(args, student, teacher):
    """The hidden states to align, [(student's index, teacher's index)]: the penultimate layers by default."""
    layers_s, layers_t = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    patient = getattr(args, "method", None) == "pkd"
    if not (args.do_layerwise or patient):
        return [penultimate_pair(student, teacher)]
    if layers_t % layers_s or layers_s < 2:
        what = "PKD" if patient else "--do_layerwise"
        raise UserError(f"{what} needs a student of 2 or more layers whose number divides the teacher's; they "
                        f"have {layers_s} and {layers_t}")
    return [(k, k * layers_t // layers_s) for k in range(1, layers_s)]
