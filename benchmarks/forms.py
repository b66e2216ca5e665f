"""The forms of a training step that the benchmarks time: our methods and what they are beside.

published           our yardstick for the released code, in float32: FSD_ILG by the formulas of
                    benchmarks/losses.py, attention without a fused kernel, all hidden states, AdamW
                    tensor by tensor, and a gradient graph through the teacher
floor               the student's forward, backward and optimizer step alone, in this project's loop
teacher, forward    the teacher's logits and features for a mini-batch
teacher, trained    train_teacher.py's step, for benchmarks/scale.py
METHOD              this project's loop: VKD and the FSDs by glue_with_cka_ilg.py, where a weight of
                    0 leaves a structure out; the student alone and the rivals by
                    baselines/glue_with_baseline.py with their own defaults
METHOD, cached              the same with --teacher_cache
METHOD, masked              the same with --mask_padding and --group_by_length
METHOD, masked, cached      both

Models are of random weights, rows of random words.
"""
import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import losses  # puts the repository on the path
import torch

import distill
import glue_with_cka_ilg
import memory
import train_teacher
from baselines import glue_with_baseline
from training import flags, models
from training.batches import MiniBatch, Rows
from training.linear import quick_linears
from training.teacher import Teacher
from training.teacher_cache import TeacherCache, entries

# layers of the teacher, and what differs from BERT-base; a student has half of the layers
SHAPES = {
    "bert-base": (12, {}),
    "minilm": (6, {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}),
    # for a rehearsal
    "tiny": (4, {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}),
}
CENTROIDS = 100


class Form(NamedTuple):
    """A step, and what of the teacher's layers it trains and only runs, as shares of them.

    make: (args, rows, indices, accelerator) -> a function that takes one step.
    """

    make: Callable
    trained: float
    run: float


# ---- models, rows, memory ------------------------------------------------------------------------


def config_of(args, share=1.0):
    """A configuration of `share` of the teacher's layers."""
    import transformers

    depth, shape = SHAPES[args.models[0]]
    return transformers.BertConfig(num_labels=2, num_hidden_layers=int(depth * share), **shape)


def classifier(args, device, share=1.0, attention="sdpa"):
    import transformers

    return transformers.AutoModelForSequenceClassification.from_config(
        config_of(args, share), attn_implementation=attention
    ).to(device)


def draw_rows(batch, length):
    """Rows of random words, as long as those of MRPC: 20 to 90 tokens, about 50 on average."""
    rows = 4 * batch
    lengths = (50 + 15 * torch.randn(rows)).clamp(20, min(90, length)).long()
    mask = torch.arange(length) < lengths.unsqueeze(1)
    words = torch.randint(1000, 30000, (rows, length))
    return {
        "input_ids": (words * mask).int(),
        "attention_mask": mask.byte(),
        "token_type_ids": torch.zeros(rows, length, dtype=torch.uint8),
        "labels": torch.randint(2, (rows,)),
    }


def draw_memory(args, model):
    """A teacher's memory of random numbers, (C, W*D)."""
    width = args.max_seq_length * model.config.hidden_size
    return torch.randn(CENTROIDS, width, device=model.device)


# ---- model FLOPs ---------------------------------------------------------------------------------


def forward_flops(config, rows, tokens):
    """Floating-point operations of a forward pass over (rows, tokens) by its matrix products, 2mnk
    each.

    A token takes 2 (4 D² + 2 D F) in a layer's linear maps and 4 W D in the two products of its
    attention, with F the inner width: the count of PaLM (Chowdhery et al. 2022, appendix B).
    Embeddings, pooler and head, under one per cent together, are left out.
    """
    width, inner = config.hidden_size, config.intermediate_size
    layer = 2 * (4 * width**2 + 2 * width * inner) + 4 * tokens * width
    return config.num_hidden_layers * layer * rows * tokens


def model_flops(form, args, rows, tokens):
    """Those of a form's step: a trained layer's forward and, twice that, backward; a layer only
    run, its forward.

    What a loss computes is not counted, nor what a form computes in vain.
    """
    trained, run = (
        forward_flops(config_of(args, share), rows, tokens) if share else 0
        for share in (FORMS[form].trained, FORMS[form].run)
    )
    return 3 * trained + run


# ---- the forms -----------------------------------------------------------------------------------


class Script(NamedTuple):
    """A script that trains: its flags -> their namespace, and what it gives to
    training.runs.run."""

    parse: Callable
    terms: Callable
    check: Callable = lambda run, student, teacher: None


def baseline_flags(words):
    """The namespace of baselines/glue_with_baseline.py, with the method's own defaults."""
    run = glue_with_baseline.make_parser().parse_args(words)
    glue_with_baseline.fill_flags(run)
    return run


ALONE = Script(train_teacher.make_parser().parse_args, train_teacher.terms)
FSD = Script(glue_with_cka_ilg.make_parser().parse_args, glue_with_cka_ilg.terms)
BASELINE = Script(baseline_flags, glue_with_baseline.terms, glue_with_baseline.check)


def settings(args, script, own=""):
    """The namespace of a script's flags: a form's own ones and the benchmark's."""
    given = f"--model_name_or_path - --task_name RTE --data_dir - --output_dir - {own}"
    given += f" --per_gpu_train_batch_size {args.per_gpu_train_batch_size}"
    given += f" --max_seq_length {args.max_seq_length}" + (" --compile" if args.compile else "")
    return script.parse(given.split())


def steps_of(args, loop, indices):
    """A function that takes a step of a distill.Loop, always on one mini-batch, loaded as in
    training."""
    loop.student.train()
    pinned = loop.accelerator.device.type == "cuda" and not args.unpinned
    workers = args.dataloader_num_workers
    items = iter(loop.data.loader(itertools.repeat(indices), workers, pinned))
    return lambda: loop.step([next(items)], observe=False)


def model_alone(share, args, rows, indices, accelerator):
    """A model of `share` of the teacher's layers, without a teacher of its own."""
    run, model = settings(args, ALONE), classifier(args, accelerator.device, share)
    if not args.compile:
        quick_linears(model, accelerator)
    loop = distill.Loop(run, accelerator, model, None, ALONE.terms(run), [], rows)
    return steps_of(args, loop, indices)


def distillation(script, own, args, rows, indices, accelerator):
    """This project's loop, by a script and flags of the form's own."""
    run = settings(args, script, own)
    student, teacher = (classifier(args, accelerator.device, share) for share in (0.5, 1.0))
    script.check(run, student, teacher)
    if not args.compile:
        quick_linears(student, accelerator)
    pairs, memories = models.layer_pairs(run, student, teacher), None
    if flags.needs_memory(run):
        memories = memory.Memories(
            draw_memory(args, teacher), student.config.hidden_size, args.max_seq_length, 1
        )
    terms = script.terms(run, memories)
    teacher = Teacher(teacher.eval().requires_grad_(False), accelerator, args.compile)
    cache = filled_cache(run, teacher, rows, terms, pairs, memories) if run.teacher_cache else None
    loop = distill.Loop(run, accelerator, student, teacher, terms, pairs, rows, cache)
    return steps_of(args, loop, indices)


def filled_cache(run, teacher, rows, terms, pairs, memories):
    """A teacher cache of the rows, in a folder that lives as long as it does."""
    layers = [layer for _, layer in pairs]
    wanted = entries(distill.needs_of(terms), layers, teacher.model.config, run, memories)
    folder = tempfile.TemporaryDirectory()
    cache = TeacherCache(folder.name, {"task": "random"}, len(rows["labels"]), wanted)
    cache.place = folder
    return cache.complete(teacher, rows, run.per_gpu_train_batch_size, 10**9)


def teacher_forward(args, rows, indices, accelerator):
    """The teacher's logits and penultimate features."""
    model = classifier(args, accelerator.device).eval().requires_grad_(False)
    teacher, data = Teacher(model, accelerator, args.compile), Rows(rows)
    layers = (model.config.num_hidden_layers - 1,)
    return lambda: teacher(MiniBatch(data[indices], accelerator.device), layers)


def published(args, rows, indices, accelerator):
    """The published form; every loss by itself, the teacher with a gradient graph."""
    device = accelerator.device
    student, teacher = (classifier(args, device, share, "eager") for share in (0.5, 1.0))
    student.train()
    teacher.eval()
    layer_s, layer_t = models.penultimate_pair(student, teacher)
    m_t = draw_memory(args, teacher)
    m_s = memory.Memories(m_t, student.config.hidden_size, args.max_seq_length, 1).student
    optimizer = torch.optim.AdamW([*student.parameters(), m_s], lr=1e-5, foreach=False, fused=False)

    def step():
        batch = {key: value.to(device) for key, value in Rows(rows)[indices]["inputs"].items()}
        labels = rows["labels"][indices].to(device)
        s, t = (model(**batch, output_hidden_states=True) for model in (student, teacher))
        h_s, h_t = s.hidden_states[layer_s], t.hidden_states[layer_t]
        flat_s, flat_t = h_s.flatten(1), h_t.flatten(1)  # (B, W, D) -> (B, W*D)
        total = 0.5 * distill.task_loss(s.logits, labels) + 0.5 * distill.kd_loss(
            s.logits, t.logits, 5.0
        )
        total = total + losses.published_intra(h_s, h_t) + losses.published_rows(flat_s, flat_t)
        total = total + losses.published_rows(m_s, m_t)
        total = total + losses.published_feature_to_memory(flat_s, m_s, flat_t, m_t)
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        teacher.zero_grad()

    return step


# method -> (script, its flags)
METHODS = {
    "VKD": (FSD, "--beta 0"),
    **{
        method.name: (BASELINE, f"--method {name}")
        for name, method in glue_with_baseline.METHODS.items()
        if method.name != "VKD"
    },
    "FSD_I": (FSD, "--gamma_l 0 --gamma_g 0"),
    "FSD_L": (FSD, "--gamma_i 0 --gamma_g 0"),
    "FSD_G": (FSD, "--gamma_i 0 --gamma_l 0"),
    "FSD_IL": (FSD, "--gamma_g 0"),
    "FSD_ILG": (FSD, ""),
}
MASKED, CACHED = "--mask_padding --group_by_length", "--teacher_cache DIR"
VARIANTS = {
    "": "",
    ", cached": CACHED,
    ", masked": MASKED,
    ", masked, cached": f"{MASKED} {CACHED}",
}

FORMS = {
    "published": Form(published, 0.5, 1),
    "floor": Form(partial(model_alone, 0.5), 0.5, 0),
    "teacher, forward": Form(teacher_forward, 0, 1),
    "teacher, trained": Form(partial(model_alone, 1.0), 1, 0),
}
for _name, (_script, _own) in METHODS.items():
    for _variant, _more in VARIANTS.items():
        if _name == "none" and "cached" in _variant:
            continue  # without a teacher there is nothing to cache
        _run = 0 if _name == "none" or "cached" in _variant else 1
        _make = partial(distillation, _script, f"{_own} {_more}")
        FORMS[_name + _variant] = Form(_make, 0.5, _run)

DEFAULT = ["published", "FSD_ILG", "FSD_ILG, cached", "FSD_ILG, masked", "VKD", "VKD, cached",
           "floor", "teacher, forward", "teacher, trained"]
# short names for several forms
GROUPS = {
    f"methods{variant}": [name + variant for name in METHODS if name + variant in FORMS]
    for variant in VARIANTS
}
