"""Builds the student, and pairs its layers with the teacher's layers that they follow."""

import torch
import transformers

from common import UserError, say
from training import classes
from training.loading import for_student, hub_arguments, load_config, loading
from training.models import fingerprint_of_weights, load_classifier
from training.reading import check_reading
from training.tokenizer import check_tokenizer


def load_student(args, task, tokenizer, teacher, checkpoint, alone=False):
    """The model to train: from a checkpoint if there is one; else a student of `teacher`; else,
    without a teacher, the pretrained model.

    tokenizer: the student's. alone: whether the student reads rows in another way than the teacher,
    as reads_alone returns.
    """
    if alone:
        args = for_student(args)
    if checkpoint:
        return build_model(args, task, tokenizer, str(checkpoint), copy=True, layers=None)
    picked = args.student_layers and [int(layer) for layer in args.student_layers.split(",")]
    if teacher is None:
        layers = picked or args.student_num_hidden_layers
        return build_model(
            args, task, tokenizer, args.model_name_or_path, True, layers, args.config_name
        )
    source = args.model_name_or_path_for_copy or args.model_name_or_path
    family = teacher.config.model_type
    if not alone and (args.student_model_type or family).lower() != family:
        raise UserError(
            f"--student_model_type is {args.student_model_type}, but the teacher is of type "
            f"{family}: teacher and student must be of one family, or have tokenizers of their own"
        )
    layers = (
        picked or args.student_num_hidden_layers or max(1, teacher.config.num_hidden_layers // 2)
    )
    return build_model(args, task, tokenizer, source, args.copy_teacher, layers)


def reads_alone(args, tokenizer, tokenizer_t):
    """Whether the student reads rows in another way than the teacher: by its tokenizer or its
    length.

    tokenizer_t: the teacher's. A note tells of a tokenizer of the student's own.
    """
    if tokenizer is not tokenizer_t:
        say(
            f"note: the student reads with the tokenizer of {args.model_name_or_path_for_copy}, of "
            f"{len(tokenizer)} tokens; the teacher's has {len(tokenizer_t)} others"
        )
    return tokenizer is not tokenizer_t or for_student(args).max_seq_length != args.max_seq_length


def build_model(args, task, tokenizer, source, copy, layers, config_name=""):
    """A model of `layers` layers shaped like `source`, with its first layers' weights if `copy`.

    layers: their number, None for all, or a list of the layers of `source` to copy instead of the
    first, counted from 0. source: folder or hub name. The head is new unless the source has one for
    as many labels.
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
        with torch.random.fork_rng(devices=[]):  # a new head draws random numbers
            whole, lost, _ = load_classifier(source, whole, "model", **hub_arguments(args))
        check_encoder(whole, lost, source)
        copy_layers(model, whole, picked, source)
    if order and not lacking:
        classes.permute_classes(model, order)
    check_reading(model, tokenizer, args.max_seq_length, f"model {source}")
    return model


def check_encoder(model, lacking, source):
    """Refuse a source that lacks weights of the encoder. lacking: as load_classifier returns."""
    lost = sorted(key for key in lacking if not is_head(model, key))
    if lost:
        raise UserError(
            f"{source} lacks {len(lost)} weights of a {model.config.model_type} encoder, the first "
            f"{lacking[lost[0]]}: give a model of the same family, stored whole"
        )


def copy_layers(student, whole, layers, source):
    """Give a student these layers of the whole model, in place of the first ones that it holds."""
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
                    f"--student_layers: layer {layer} of {source} cannot become layer {place} of "
                    f"the student, as in a {family} model {min(differ)[0]} is missing in one of "
                    f"these two layers or has another shape there: {advice}"
                )
            mine[place].load_state_dict(found)


def is_head(model, key):
    """True for a weight that fine-tuning may start anew: of the pooler, or outside the encoder."""
    return not key.startswith(model.base_model_prefix + ".") or ".pooler." in key


def fingerprint_of_encoder(model):
    """The sha256 of a model's weights without its pooler and head, as hex."""
    weights = {k: value for k, value in model.state_dict().items() if not is_head(model, k)}
    return fingerprint_of_weights(weights)


def cut_layers(config, layers):
    """Reduce a configuration, in place, to these of its layers, counted from 0, and likewise its
    lists with one entry per layer. Returns it.
    """
    layers = list(layers)
    depth = config.num_hidden_layers
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[layer] for layer in layers])
    config.num_hidden_layers = len(layers)
    return config


# ---- layers --------------------------------------------------------------------------------------


def penultimate_pair(student, teacher):
    """The indices of the penultimate hidden states, (student's, teacher's)."""
    return student.config.num_hidden_layers - 1, teacher.config.num_hidden_layers - 1


def layer_pairs(args, student, teacher, layers="penultimate"):
    """The hidden states to align, [(student's index, teacher's index)].

    layers: the layers that the method compares: "penultimate", or "every" one up to it;
    --do_layerwise makes "every" of "penultimate". UserError if every layer is compared and the
    student has only one, or a number that does not divide the teacher's.
    """
    layers_s, layers_t = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    if layers == "penultimate" and not args.do_layerwise:
        return [penultimate_pair(student, teacher)]
    if layers_t % layers_s or layers_s < 2:
        what = "--do_layerwise" if args.do_layerwise else f"--method {args.method}"
        raise UserError(
            f"{what} needs a student of 2 or more layers whose number divides the teacher's, found "
            f"{layers_s} and {layers_t} layers: choose another --student_num_hidden_layers"
        )
    return [(k, k * layers_t // layers_s) for k in range(1, layers_s)]
