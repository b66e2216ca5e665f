"""The forms of a training step that benchmarks time: our methods and what they are compared with.

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
METHOD, masked, not grouped, and METHOD, grouped: only one of the two flags
METHOD, padded, and METHOD, padded, cached: with the padding that no loss reads and that the scripts
                            cut off, to compare with a method that reads padding
plain: VKD, plain: none, plain: teacher
                            the loop that everybody writes, benchmarks/plain_loop.py
TextBrewer: VKD             the step of a published library, benchmarks/text_brewer.py

Models are of random weights; rows are those of a task, or random words.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import losses  # puts the repository on the path
import plain_loop
import torch

import glue_with_cka_ilg
import kd
import memory
import train_teacher
from baselines import glue_with_baseline
from common import UserError
from loop import Loop
from tasks.features import load_features
from terms import needs_of
from training import flags, students
from training.batches import MiniBatch, Rows, load, with_mask
from training.cache_entries import entries
from training.teacher import Teacher
from training.teacher_cache import TeacherCache

# layers of the teacher, and what differs from BERT-base; a student has half of the layers
SHAPES = {
    "bert-base": (12, {}),
    "minilm": (6, {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}),
    # for a rehearsal
    "tiny": (4, {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}),
}
CENTROIDS = 100


class Form(NamedTuple):
    """A way to take a step. trained, run: shares of the teacher's layers that it trains, only runs.

    make: (args, rows, batches, accelerator) -> a Step that goes through the batches, index tensors,
    again and again. grouped: their rows are of like length. peer: the plain loop's form that does
    the same work.
    """

    make: Callable
    trained: float
    run: float
    grouped: bool = False
    peer: str = ""


class Step(NamedTuple):
    """take: a function that takes a step. cut: True if mini-batches are cut to the longest row."""

    take: Callable
    cut: bool


# ---- models, rows, memory ------------------------------------------------------------------------


def config_of(args, share=1.0):
    """The configuration of a BERT with a share of the teacher's layers, 1 for all of them."""
    import transformers

    depth, shape = SHAPES[args.models[0]]
    return transformers.BertConfig(num_labels=2, num_hidden_layers=int(depth * share), **shape)


def classifier(args, device, share=1.0, attention="sdpa"):
    import transformers

    return transformers.AutoModelForSequenceClassification.from_config(
        config_of(args, share), attn_implementation=attention
    ).to(device)


def rows_of(args):
    """The rows, name -> tensor (N, W): random without --data_dir, else the first of --task_name, as
    many as all mini-batches take, so that forms with and without grouping have the same rows.
    """
    if not args.data_dir:
        return draw_rows(args.per_gpu_train_batch_size, args.max_seq_length)
    tokenizer = plain_loop.tokenizer_of(args.tokenizer_name)
    if len(tokenizer) > config_of(args).vocab_size:
        raise UserError(
            f"--tokenizer_name {args.tokenizer_name} has {len(tokenizer)} tokens, but the models "
            f"measured have at most {config_of(args).vocab_size}: name BERT's tokenizer"
        )
    task = plain_loop.two_classes(args.task_name)
    most = args.batches * args.per_gpu_train_batch_size
    return load_features(
        task, args.data_dir, "train", tokenizer, args.max_seq_length, max_samples=most
    ).tensors


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
    """FLOPs of the matrix products, 2mnk each, in a forward pass over (rows, tokens).

    A token takes 2 (4 D² + 2 D F) in a layer's linear maps and 4 W D in the two products of its
    attention, with F the inner width: the count of PaLM (Chowdhery et al. 2022, appendix B).
    Embeddings, pooler and head, under one per cent together, are left out.
    """
    width, inner = config.hidden_size, config.intermediate_size
    layer = 2 * (4 * width**2 + 2 * width * inner) + 4 * tokens * width
    return config.num_hidden_layers * layer * rows * tokens


def model_flops(form, args, rows, tokens):
    """The FLOPs of a form's step: three forwards per trained layer, one per layer that only runs.

    What a loss computes is not counted, nor what a form computes in vain.
    """
    trained, run = (
        forward_flops(config_of(args, share), rows, tokens) if share else 0
        for share in (FORMS[form].trained, FORMS[form].run)
    )
    return 3 * trained + run


# ---- the forms -----------------------------------------------------------------------------------


class Script(NamedTuple):
    """A training script. parse: words -> its flags' namespace; the rest it gives to distill.run."""

    parse: Callable
    terms: Callable
    check: Callable = lambda run, student, teacher: None
    layers: Callable = lambda run: "penultimate"


def baseline_flags(words):
    """The namespace of baselines/glue_with_baseline.py's flags, with the method's own defaults."""
    run = glue_with_baseline.make_parser().parse_args(words)
    glue_with_baseline.fill_flags(run)
    return run


ALONE = Script(train_teacher.make_parser().parse_args, train_teacher.terms)
FSD = Script(glue_with_cka_ilg.make_parser().parse_args, glue_with_cka_ilg.terms)
BASELINE = Script(
    baseline_flags, glue_with_baseline.terms, glue_with_baseline.check, glue_with_baseline.layers
)


def settings(args, script, own=""):
    """The namespace of a script's flags: those in `own`, a form's, and the benchmark's."""
    given = f"--model_name_or_path - --task_name RTE --data_dir - --output_dir - {own}"
    given += f" --per_gpu_train_batch_size {args.per_gpu_train_batch_size}"
    given += f" --max_seq_length {args.max_seq_length}"
    return script.parse(given.split())


def steps_of(args, loop, batches):
    """The Step of a Loop, with mini-batches loaded as in training."""
    loop.student.train()
    device = loop.accelerator.device
    pinned = device.type == "cuda" and not args.unpinned
    items = iter(load(loop.data, itertools.cycle(batches), args.dataloader_num_workers, pinned))
    return Step(lambda: loop.take_step([MiniBatch(next(items), device)]), loop.cut)


def model_alone(share, args, rows, batches, accelerator):
    """The Step of a model with `share` of the teacher's layers, trained without a teacher."""
    run, model = settings(args, ALONE), classifier(args, accelerator.device, share)
    loop = Loop(run, accelerator, model, None, ALONE.terms(run), [], rows)
    return steps_of(args, loop, batches)


def distillation(script, own, can_cut, args, rows, batches, accelerator):
    """The Step of this project's loop by a script, with the form's own flags.

    can_cut: False to keep the padding that no loss reads.
    """
    run = settings(args, script, own)
    rows = with_mask(rows, run)
    student, teacher = (classifier(args, accelerator.device, share) for share in (0.5, 1.0))
    script.check(run, student, teacher)
    pairs, memories = students.layer_pairs(run, student, teacher, script.layers(run)), None
    if flags.needs_memory(run):
        memories = memory.Memories(
            draw_memory(args, teacher), student.config.hidden_size, args.max_seq_length, 1
        )
    terms = script.terms(run, memories)
    teacher = Teacher(teacher.eval().requires_grad_(False), accelerator)
    cache = filled_cache(run, teacher, rows, terms, pairs, memories) if run.teacher_cache else None
    loop = Loop(run, accelerator, student, teacher, terms, pairs, rows, cache, can_cut=can_cut)
    return steps_of(args, loop, batches)


def filled_cache(run, teacher, rows, terms, pairs, memories):
    """A complete teacher cache of the rows, in a temporary folder removed with the cache."""
    layers = [layer for _, layer in pairs]
    wanted = entries(needs_of(terms), layers, teacher.model.config, run, "mask" in rows, memories)
    folder = tempfile.TemporaryDirectory()
    cache = TeacherCache(folder.name, {"task": "random"}, len(rows["labels"]), wanted)
    cache.place = folder
    return cache.complete(teacher, rows, run.per_gpu_train_batch_size)


def plain(share, args, rows, batches, accelerator, library="plain"):
    """The Step of a library: "plain" for the plain loop, "none" for it without a teacher, or
    "TextBrewer". share: the student's share of the teacher's layers; below 1 it distils.
    """
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    distils = share < 1 and library != "none"
    student = classifier(args, device, share)
    teacher = classifier(args, device).eval().requires_grad_(False) if distils else None
    lists = [unpadded(rows, indices) for indices in batches]
    mini_batches = map(plain_loop.collate, itertools.cycle(lists))
    if library == "TextBrewer":
        import text_brewer  # here, as it is no requirement

        student.train()
        take = text_brewer.distiller_step(student, teacher, mini_batches, device, bf16)
    else:
        take = plain_loop.plain_step(student, teacher, mini_batches, device, bf16, total=10**6)
    return Step(take, True)


def unpadded(rows, indices):
    """Rows as a tokenizer returns them, dicts of lists of ids without padding."""
    lengths = rows["attention_mask"][indices].sum(1).tolist()
    lists = {key: rows[key][indices].tolist() for key in rows}
    return [
        {key: values[i] if key == "labels" else values[i][:length] for key, values in lists.items()}
        for i, length in enumerate(lengths)
    ]


def teacher_forward(args, rows, batches, accelerator):
    """The Step that computes the teacher's logits and penultimate features."""
    model = classifier(args, accelerator.device).eval().requires_grad_(False)
    teacher, data = Teacher(model, accelerator), Rows(rows)
    layers, order = (model.config.num_hidden_layers - 1,), itertools.cycle(batches)
    return Step(lambda: teacher(MiniBatch(data[next(order)], accelerator.device), layers), False)


def published(args, rows, batches, accelerator):
    """The Step of the published form: every loss by itself, the teacher with a gradient graph."""
    device = accelerator.device
    student, teacher = (classifier(args, device, share, "eager") for share in (0.5, 1.0))
    student.train()
    teacher.eval()
    layer_s, layer_t = students.penultimate_pair(student, teacher)
    m_t = draw_memory(args, teacher)
    m_s = memory.Memories(m_t, student.config.hidden_size, args.max_seq_length, 1).student
    optimizer = torch.optim.AdamW([*student.parameters(), m_s], lr=1e-5, foreach=False, fused=False)
    order = itertools.cycle(batches)

    def step():
        indices = next(order)
        batch = {key: value.to(device) for key, value in Rows(rows)[indices]["inputs"].items()}
        labels = rows["labels"][indices].to(device)
        s, t = (model(**batch, output_hidden_states=True) for model in (student, teacher))
        h_s, h_t = s.hidden_states[layer_s], t.hidden_states[layer_t]
        flat_s, flat_t = h_s.flatten(1), h_t.flatten(1)  # (B, W, D) -> (B, W*D)
        total = 0.5 * kd.task_loss(s.logits, labels) + 0.5 * kd.kd_loss(s.logits, t.logits, 5.0)
        total = total + losses.published_intra(h_s, h_t) + losses.published_rows(flat_s, flat_t)
        total = total + losses.published_rows(m_s, m_t)
        total = total + losses.published_feature_to_memory(flat_s, m_s, flat_t, m_t)
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        teacher.zero_grad()

    return Step(step, False)


# method -> (script, its flags)
METHODS = {
    "VKD": (FSD, "--beta 0"),
    **{
        method.name: (BASELINE, f"--method {name}")
        for name, method in glue_with_baseline.methods().items()
        if method.name != "VKD"
    },
    "FSD_I": (FSD, "--gamma_l 0 --gamma_g 0"),
    "FSD_L": (FSD, "--gamma_i 0 --gamma_g 0"),
    "FSD_G": (FSD, "--gamma_i 0 --gamma_l 0"),
    "FSD_IL": (FSD, "--gamma_g 0"),
    "FSD_ILG": (FSD, ""),
}
GROUPED, MASKED, CACHED = "--group_by_length", "--mask_padding", "--teacher_cache DIR"
VARIANTS = {
    "": "",
    ", cached": CACHED,
    ", masked": f"{MASKED} {GROUPED}",
    ", masked, cached": f"{MASKED} {GROUPED} {CACHED}",
    ", masked, not grouped": MASKED,
    ", grouped": GROUPED,
    ", padded": "",
    ", padded, cached": CACHED,
}

FORMS = {
    "published": Form(published, 0.5, 1),
    "floor": Form(partial(model_alone, 0.5), 0.5, 0, peer="plain: none"),
    "teacher, forward": Form(teacher_forward, 0, 1),
    "teacher, trained": Form(partial(model_alone, 1.0), 1, 0, peer="plain: teacher"),
    "teacher, trained, grouped": Form(partial(model_alone, 1.0), 1, 0, True, "plain: teacher"),
    "plain: teacher": Form(partial(plain, 1.0), 1, 0),
    "plain: none": Form(partial(plain, 0.5, library="none"), 0.5, 0),
    "plain: VKD": Form(partial(plain, 0.5), 0.5, 1),
    "TextBrewer: VKD": Form(partial(plain, 0.5, library="TextBrewer"), 0.5, 1, peer="plain: VKD"),
}
for _name, (_script, _own) in METHODS.items():
    for _variant, _more in VARIANTS.items():
        if _name == "none" and "cached" in _variant:
            continue  # without a teacher there is nothing to cache
        FORMS[_name + _variant] = Form(
            partial(distillation, _script, f"{_own} {_more}", "padded" not in _variant),
            trained=0.5,
            run=0 if _name == "none" or "cached" in _variant else 1,
            grouped=GROUPED in _more,
            peer="plain: none" if _name == "none" else "plain: VKD",
        )

DEFAULT = [
    "published",
    "FSD_ILG",
    "FSD_ILG, cached",
    "FSD_ILG, masked",
    "VKD",
    "VKD, cached",
    "VKD, padded",
    "VKD, padded, cached",
    "floor",
    "teacher, forward",
    "teacher, trained",
]
# short names for several forms
GROUPS = {
    f"methods{variant}": [name + variant for name in METHODS if name + variant in FORMS]
    for variant in VARIANTS
}
GROUPS["peers"] = [
    "plain: VKD",
    "TextBrewer: VKD",
    "VKD",
    "VKD, grouped",
    "FSD_I, masked, not grouped",
    "FSD_I, masked",
    "FSD_ILG, masked, not grouped",
    "plain: none",
    "none",
    "none, grouped",
    "plain: teacher",
    "teacher, trained",
    "teacher, trained, grouped",
]
