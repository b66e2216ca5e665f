"""Teacher and student: loaded with transformers' Auto classes, refused where they do not fit
together.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import torch
import transformers

import common
from common import UserError, say
from training import classes
from training.batches import MiniBatch, Rows, span
from training.loading import hub_arguments, load_config, loading
from training.tokenizer import check_tokenizer, check_vocabulary, saved_reads_alike

WRAPPERS = r"^(module\.|_orig_mod\.)+"  # what DataParallel and torch.compile put before the names of weights
os.environ.setdefault(
    "DISABLE_SAFETENSORS_CONVERSION", "1"
)  # of a .bin, in a thread, by a hub's service


def mask_without_waiting():
    """Have transformers make every attention mask: to leave out one without padding, it would wait
    for the device.
    """
    from transformers.masking_utils import sdpa_mask  # here, as it imports for seconds

    def always(*args, **kwargs):
        return sdpa_mask(*args, **kwargs | {"allow_is_bidirectional_skip": False})

    transformers.AttentionMaskInterface.register("sdpa", always)


# ---- loading -------------------------------------------------------------------------------------


def cut_layers(config, layers):
    """Leave a configuration these of its layers, from 0, and their entries in its lists with one a
    layer.
    """
    layers = list(layers)
    depth = config.num_hidden_layers
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[layer] for layer in layers])
    config.num_hidden_layers = len(layers)
    return config


def load_classifier(name, config, what, **options):
    """The classifier of a folder or hub name, safetensors or pytorch_model.bin, as float32.

    Returns the model, the names of its weights that the source lacks or has in another shape, and
    the number of layers that the source has, where these are more than the configuration says; else
    0.
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
    """A classifier whose weights are all there, its classes in the task's order."""
    model, lacking, layers = load_classifier(name, config, what, **options)
    if layers > config.num_hidden_layers:
        raise UserError(
            f"the {what} {name} has weights of {layers} layers, but its config.json says "
            f"{config.num_hidden_layers}: correct that, so that it is not cut short"
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
    """Refuse a model with another number of labels than the task's."""
    expected = 1 if task.labels is None else len(task.labels)
    if config.num_labels != expected:
        raise UserError(
            f"the {what} {name} has {config.num_labels} labels, but {task.name} has {expected}: "
            f"fine-tune one on {task.name} with train_teacher.py"
        )


def fingerprint_of_model(model):
    """The sha256 of a model's weights by name, as hex: equal for equal weights, whatever file or
    hub they came from.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_of_config(config):
    """The sha256 of a model's configuration, as hex, without where it was stored and by which
    version.
    """
    content = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
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
    model = load_finished(name, config, "teacher", task, **hub_arguments(args))
    check_reading(model, tokenizer, args.max_seq_length, f"teacher {name}")
    return model.eval().requires_grad_(False)


def load_student(args, task, tokenizer, teacher, checkpoint):
    """The model to train: from a checkpoint; or as a student of `teacher`; or, without a teacher,
    pretrained.
    """
    if checkpoint:
        return build_model(args, task, tokenizer, str(checkpoint), copy=True, layers=None)
    picked = args.student_layers and [int(layer) for layer in args.student_layers.split(",")]
    if teacher is None:
        layers = picked or args.student_num_hidden_layers
        return build_model(
            args, task, tokenizer, args.model_name_or_path, True, layers, args.config_name
        )
    family = teacher.config.model_type
    if (args.student_model_type or family).lower() != family:
        raise UserError(
            f"--student_model_type is {args.student_model_type}, but the teacher is of type "
            f"{family}: teacher and student must be of one family"
        )
    source = args.model_name_or_path_for_copy or args.model_name_or_path
    layers = (
        picked or args.student_num_hidden_layers or max(1, teacher.config.num_hidden_layers // 2)
    )
    if args.copy_teacher and args.model_name_or_path_for_copy:
        check_vocabulary(args, tokenizer, source, teacher.config)
    return build_model(args, task, tokenizer, source, args.copy_teacher, layers)


def build_model(args, task, tokenizer, source, copy, layers, config_name=""):
    """A model of `layers` layers shaped like `source`, with its first layers' weights if `copy`.

    layers: their number, None for all, or a list of those to copy instead, counted from 0. source:
    folder or hub name. The head is new unless the source has one for as many labels.
    """
    config = load_config(args, config_name or source, "model")
    depth, order = config.num_hidden_layers, classes.order_of(config, task)
    picked = layers if isinstance(layers, list) else None
    if picked and picked[-1] >= depth:
        raise UserError(
            f"--student_layers names layer {picked[-1]}, but {source} has {depth} layers, "
            f"0 to {depth - 1}: name some of these, or copy from another model"
        )
    layers = len(picked) if picked else layers or depth
    if copy and layers > depth:
        raise UserError(
            f"cannot copy {layers} layers from {source}, which has {depth}: pass "
            f"--student_num_hidden_layers {depth} or less, or copy from another model"
        )
    if layers <= depth:
        cut_layers(config, picked or range(layers))
    else:
        config.num_hidden_layers = layers  # of a student that starts at random
    classes.name_classes(config, task)
    check_tokenizer(args, tokenizer, config, source)
    if not copy:
        with loading("model", source):
            model = transformers.AutoModelForSequenceClassification.from_config(config).float()
        check_reading(model, tokenizer, args.max_seq_length, f"model {source}")
        return model
    model, lacking, _ = load_classifier(source, config, "model", **hub_arguments(args))
    check_encoder(model, lacking, source)
    if picked:
        whole = load_config(args, config_name or source, "model")
        with torch.random.fork_rng(devices=[]):  # its head may draw random numbers
            whole, lost, _ = load_classifier(source, whole, "model", **hub_arguments(args))
        check_encoder(whole, lost, source)
        copy_layers(model, whole, picked, source)
    if order and not lacking:
        classes.permute_classes(model, order)
    check_reading(model, tokenizer, args.max_seq_length, f"model {source}")
    return model


def check_encoder(model, lacking, source):
    """Refuse a source that lacks weights of the encoder. lacking: of load_classifier."""
    lost = sorted(key for key in lacking if not is_head(model, key))
    if lost:
        raise UserError(
            f"{source} lacks {len(lost)} weights of a {model.config.model_type} encoder, the first "
            f"{lacking[lost[0]]}: give a model of the same family, stored whole"
        )


def copy_layers(student, whole, layers, source):
    """Give a student these layers of the whole model, where it has that model's first ones."""
    family, depth = student.config.model_type, whole.config.num_hidden_layers
    theirs, names = dict(whole.named_modules()), set(student.state_dict())
    stacks = {
        name: (stack, theirs[name])
        for name, stack in student.named_modules()
        if isinstance(stack, torch.nn.ModuleList)
        and len(stack) == len(layers)
        and len(theirs.get(name, ())) == depth
    }
    inside = tuple(f"{name}." for name in stacks)
    elsewhere = [
        key for key in whole.state_dict() if key not in names and not key.startswith(inside)
    ]
    weights = [
        id(weight)
        for _, stack in stacks.values()
        for layer in stack
        for weight in layer.parameters()
    ]
    if not weights or elsewhere or len(set(weights)) < len(weights):
        raise UserError(
            f"--student_layers cannot pick layers of {source}: in a model of type "
            f"{family} they share weights, or are in no list of {depth}; leave it out"
        )
    for mine, its in stacks.values():
        for place, layer in enumerate(layers):
            own, found = mine[place].state_dict(), its[layer].state_dict()
            differ = {(key, value.shape) for key, value in own.items()} ^ {
                (key, value.shape) for key, value in found.items()
            }
            if differ:
                advice = "name another for it" if place else "let the list begin with 0"
                raise UserError(
                    f"--student_layers: layer {layer} of {source} cannot be a student's "
                    f"layer {place}, as one of these two places of a {family} model "
                    f"has no such {min(differ)[0]}: {advice}"
                )
            mine[place].load_state_dict(found)


def is_head(model, key):
    """True for the weights that fine-tuning may start anew: the pooler and all that is outside the
    encoder.
    """
    return not key.startswith(model.base_model_prefix + ".") or ".pooler." in key


def find_trained(folder):
    """The path of a folder with a trained model, or a UserError."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"there is no trained model in {folder}: run with --do_train first, or name its folder"
        )
    return Path(folder)


def load_trained(args, task, folder):
    """A trained model as anybody would load it, with its tokenizer; refused where it does not fit
    the task.
    """
    folder = find_trained(folder)
    config = load_config(args, str(folder), "model")
    check_labels(task, config, folder, "model")
    model = load_finished(str(folder), config, "model", task)
    with loading("tokenizer", folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_tokenizer(args, tokenizer, config, folder)
    check_reading(model, tokenizer, args.max_seq_length, f"model {folder}")
    return model, tokenizer


# ---- what could only go wrong later, tried before ------------------------------------------------


def check_reading(model, tokenizer, length, what):
    """Refuse a model that cannot read a row of `length` tokens, or whose hidden states are not one
    for each of them.

    On the CPU, where an index beyond an embedding is an error and no abort.
    """
    width, layers = model.config.hidden_size, range(model.config.num_hidden_layers + 1)
    token = next(i for i in range(len(tokenizer) - 1, -1, -1) if i not in tokenizer.all_special_ids)

    def read(tokens):
        names = {"input_ids": token, "attention_mask": 1, "token_type_ids": int(tokens > 1)}
        inputs = {
            name: torch.full((1, tokens), value)
            for name, value in names.items()
            if name in ("input_ids", "attention_mask", *tokenizer.model_input_names)
        }
        item = {"indices": torch.arange(1), "inputs": inputs, "targets": {}, "teacher": {}}
        batch = MiniBatch(item, "cpu")
        return batch.forward(model, layers)

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = {tuple(h.shape) for h in read(length).features}
    except Exception as error:  # every family has its own
        longest = longest_read(read, length)
        reason = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        )
        if longest < 2:
            raise UserError(
                f"the {what} cannot be run on its tokenizer's tokens ({reason}): give another "
                "model, or its own tokenizer"
            ) from None
        raise UserError(
            f"--max_seq_length is {length}, but the {what} takes at most {longest} tokens "
            f"({reason}): pass {longest} or less"
        ) from None
    finally:
        model.train(training)
    if found != {(1, length, width)}:
        shapes = " and ".join(f"{shape[1]} tokens, {shape[2]} wide" for shape in sorted(found))
        raise UserError(
            f"the {what}, of type {model.config.model_type}, has hidden states of {shapes} for a "
            f"row of {length} tokens, {width} wide: features are compared token by token, so take "
            "a family that keeps one hidden state for each token"
        )


def minds_lengths(config):
    """True of models that may only be given rows of one length.

    BigBird changes its attention for good once it has met a short row; a feed-forward part in
    chunks takes multiples of these alone.
    """
    return config.model_type == "big_bird" or bool(getattr(config, "chunk_size_feed_forward", 0))


def ignores_padding(model, features):
    """True where a row means the same to the model with its padding and without, so that it may be
    cut off.

    False of families that mix in what they do not mask, as FNet, that cannot take such rows, or
    where rows are padded on the left and positions are counted from there. features: name -> tensor
    (N, W), of which the shortest row is read; None where that has no padding.
    """
    if minds_lengths(model.config):
        return False
    mask = features["attention_mask"]
    row = mask.sum(1).argmin().view(1)
    if mask[row].all():
        return None
    training, last = model.training, model.config.num_hidden_layers
    model.eval()
    try:
        with torch.no_grad():
            whole, cut = (
                MiniBatch(Rows(features, short)[row], model.device).forward(model, (last,))
                for short in (False, True)
            )
            tokens = whole.features[0][:, span(mask[row].bool())]
            return all(
                torch.allclose(*pair, rtol=1e-3, atol=1e-3)
                for pair in ((whole.logits, cut.logits), (tokens, cut.features[0]))
            )
    except (
        RuntimeError
    ):  # a family that keeps more hidden states than a short row has tokens, as Reformer
        return False
    finally:
        model.train(training)


def longest_read(read, length):
    """The most tokens below `length` for which read(tokens) raises nothing; 0 where it always does."""
    low, high = 0, length  # low is read, or 0; high is not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            with torch.no_grad():
                read(middle)
            low = middle
        except Exception:  # as above
            high = middle
    return low


def save_model(model, tokenizer, folder):
    """A normal HuggingFace folder: config.json with the label names, model.safetensors, the
    tokenizer.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def place_model(model, tokenizer, output):
    """The trained model in the output folder itself, file by file; config.json last makes it
    loadable.
    """
    with common.atomic_path(output / "trained-model") as folder:
        save_model(model, tokenizer, folder)
    for file in sorted(
        (output / "trained-model").iterdir(), key=lambda file: file.name == "config.json"
    ):
        common.move(file, output / file.name)
    common.remove_folder(output / "trained-model")


def check_saving(model, tokenizer, folder):
    """Save into a new folder, load it as anybody would, and refuse what does not come back the
    same.
    """
    try:
        save_model(model, tokenizer, folder)
        with torch.random.fork_rng(devices=[]):
            again = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True
            )
    except OSError:
        raise  # a disk's error is not the model's
    except Exception as error:  # every check of a configuration has its own
        reason = " ".join(str(error).split())
        raise UserError(
            f"this {model.config.model_type} model could not be saved at the end "
            f"({type(error).__name__}: {reason}): correct the config.json that it comes from, or "
            "take another model"
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


# ---- layers --------------------------------------------------------------------------------------


def penultimate_pair(student, teacher):
    """The indices of the penultimate hidden states, (student's, teacher's)."""
    return student.config.num_hidden_layers - 1, teacher.config.num_hidden_layers - 1


def layer_pairs(args, student, teacher, layers="penultimate"):
    """The hidden states to align, [(student's index, teacher's index)].

    layers: what the method compares, the "penultimate" layers, of which --do_layerwise makes every
    one, or "every" one by itself.
    """
    layers_s, layers_t = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    if layers == "penultimate" and not args.do_layerwise:
        return [penultimate_pair(student, teacher)]
    if layers_t % layers_s or layers_s < 2:
        what = "--do_layerwise" if args.do_layerwise else f"--method {args.method}"
        raise UserError(
            f"{what} needs a student of 2 or more layers whose number divides the teacher's; they "
            f"have {layers_s} and {layers_t}"
        )
    return [(k, k * layers_t // layers_s) for k in range(1, layers_s)]
