"""--student_layers: students that copy chosen layers, in every family and script."""

import json
import re

import pytest
import torch
import transformers
from conftest import assert_same_files, flags, read_log, save_models
from families import MAKERS, save_family
from safetensors.torch import load_file

import common
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_teacher
from analysis.runs import name_variants, read_runs, with_names
from baselines import glue_with_baseline
from common import UserError
from loop import Loop
from tasks.glue import get_task
from training import models, students
from training.flags import as_of_today, hyperparameters
from training.tokenizer import load_tokenizer

LAYER = re.compile(r"\blayers?\.(\d+)\.")  # in the names of weights


@pytest.fixture(scope="module", params=MAKERS)
def family(request, tmp_path_factory):
    """The name of a family, and a folder with models of it."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    return name, save_family(folder, name)


def student(folder, picked, main=glue_with_cka_i, source="pretrained"):
    """The student that a script starts with."""
    words = flags(folder, folder / "s", teacher=main is train_teacher)
    more = ["--student_layers", picked]
    if main is not train_teacher:
        more += ["--model_name_or_path_for_copy", folder / source]
    args = main.make_parser().parse_args([*words, *map(str, more)])
    task, tokenizer = get_task("rte"), load_tokenizer(args)
    teacher = None if main is train_teacher else models.load_teacher(args, task, tokenizer)
    return students.load_student(args, task, tokenizer, teacher, None)


def copied_from(picked):
    """A weight's name in the student -> that in its source, for these layers."""
    places = picked.split(",")
    return lambda key: LAYER.sub(
        lambda found: found[0].replace(found[1], places[int(found[1])]), key
    )


# ---- what is copied ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("main", [glue_with_cka_i, train_teacher])
def test_each_layer_is_that_of_the_source_by_name(main, family):
    name, folder = family
    if name == "albert":
        with pytest.raises(UserError, match="model of type albert they share weights"):
            student(folder, "0,2,3", main)
        return
    source = transformers.AutoModel.from_pretrained(folder / "pretrained").state_dict()
    for picked in ("0,2,3", "0,3") if name == "modernbert" else ("0,2,3", "1,3", "3"):
        found, there = student(folder, picked, main), copied_from(picked)
        weights = {
            key: value
            for key, value in found.base_model.state_dict().items()
            if "pooler" not in key
        }
        layers = {int(LAYER.search(key)[1]) for key in weights if LAYER.search(key)}
        assert len(layers) == found.config.num_hidden_layers == len(picked.split(","))
        for key, value in weights.items():
            assert torch.equal(value, source[there(key)]), key
        moved = [key for key, value in weights.items() if there(key) != key and value.ndim == 2]
        assert moved
        assert not any(key in source and torch.equal(weights[key], source[key]) for key in moved)


@pytest.mark.slow
def test_the_student_computes_what_these_layers_of_the_source_do(family):
    """The teacher, its other layers taken out, has the same logits: its head is copied, too."""
    name, folder = family
    if name == "albert":
        return
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    whole = load(folder / "teacher").eval()
    ((place, stack),) = (
        (key, module)
        for key, module in whole.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == 4
    )
    whole.set_submodule(place, torch.nn.ModuleList(stack[layer] for layer in (0, 2, 3)))
    rows = {"input_ids": torch.randint(5, 30, (3, 12), generator=torch.Generator().manual_seed(0))}
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    found = student(folder, "0,2,3", source="teacher").eval()
    with torch.no_grad():
        torch.testing.assert_close(found(**rows).logits, whole(**rows).logits)
        found.save_pretrained(folder / "saved")
        again = load(folder / "saved").eval()
        assert torch.equal(again(**rows).logits, found(**rows).logits)
    if name == "modernbert":
        assert again.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]


def test_lists_with_one_entry_a_layer_follow_the_layers():
    config = transformers.BertConfig(num_hidden_layers=4, layer_kinds=[*"abcd"], sizes=[1, 2, 3, 4])
    students.cut_layers(config, [0, 2, 3])
    assert (config.layer_kinds, config.num_hidden_layers) == ([*"acd"], 3)
    assert config.sizes == [1, 2, 3, 4]
    students.cut_layers(config, range(2))
    assert (config.layer_kinds, config.num_hidden_layers) == ([*"ac"], 2)


def test_layers_that_share_weights_or_lie_elsewhere_are_refused(tiny):
    """One layer that stands in two places; weights outside of the list that a cut model lacks."""

    def pick(change):
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        whole, cut = load(tiny / "teacher"), load(tiny / "teacher", num_hidden_layers=2)
        change(whole.bert.encoder)
        with pytest.raises(UserError, match="cannot pick layers of here: in a model of type bert"):
            students.copy_layers(cut, whole, [0, 3], "here")

    pick(
        lambda encoder: setattr(
            encoder, "layer", torch.nn.ModuleList([*encoder.layer[:3], encoder.layer[0]])
        )
    )
    pick(lambda encoder: setattr(encoder, "mix", torch.nn.Linear(4, 4)))


def test_modernberts_first_layer_is_of_another_shape(tmp_path):
    folder = save_family(tmp_path, "modernbert")
    with pytest.raises(
        UserError, match=r"layer 1 of .* attn_norm.weight is missing .*: let the list"
    ):
        student(folder, "1,3")


def test_weights_with_a_wrapped_prefix_are_copied_too(tmp_path):
    """As DataParallel named them."""
    folder = save_models(tmp_path)
    path = folder / "pretrained/model.safetensors"
    weights = load_file(path)
    torch.save(
        {f"module.bert.{key}": value for key, value in weights.items()},
        path.with_name("pytorch_model.bin"),
    )
    path.unlink()
    found, there = student(folder, "1,3").base_model.state_dict(), copied_from("1,3")
    assert all(
        torch.equal(value, weights[there(key)])
        for key, value in found.items()
        if "pooler" not in key
    )


# ---- runs ----------------------------------------------------------------------------------------


SCRIPTS = {
    "none": (train_teacher, []),
    "FSD_I": (glue_with_cka_i, ["--internal"]),
    "FSD_G": (glue_with_cka_g, []),
    "FSD_IL": (glue_with_cka_ilg, ["--gamma_g", 0]),
    "RKD": (glue_with_baseline, ["--method", "rkd"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_trains_the_chosen_layers(name, tiny_without_dropout, trained, tmp_path):
    (main, more), alone = SCRIPTS[name], name == "none"
    if name == "FSD_G":
        more = ["--teacher_memory_path", trained]
    assert (
        main.main(
            flags(
                tiny_without_dropout,
                tmp_path / "s",
                "--learning_rate",
                0,
                "--max_steps",
                1,
                "--student_layers",
                "1,3",
                "--results_csv",
                tmp_path / "r.csv",
                *more,
                teacher=alone,
            )
        )
        == 0
    )
    source = load_file(tiny_without_dropout / "pretrained/model.safetensors")
    found, there = load_file(tmp_path / "s/model.safetensors"), copied_from("1,3")
    found = {key.removeprefix("bert."): value for key, value in found.items() if ".layer." in key}
    assert len(found) == 2 * 16
    assert all(torch.equal(value, source[there(key)]) for key, value in found.items())
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["arguments"]["student_layers"] == run["settings"]["student_layers"] == "1,3"
    assert run["method"] == name and "student_layers" in hyperparameters()
    row = with_names(name_variants(read_runs(tmp_path / "r.csv"))).iloc[0]
    assert (row.method, row["--student_layers"]) == (f"{name}, student_layers 1,3", "1,3")


@pytest.mark.slow
@pytest.mark.parametrize("main", [glue_with_cka_i, train_teacher])
def test_the_first_layers_by_name_are_the_first_layers_bit_for_bit(main, tiny, tmp_path):
    """With dropout: the new head and all that is drawn after it are the same."""
    for output, more in (
        ("default", ["--student_num_hidden_layers", 3]),
        ("named", ["--student_layers", "0,1,2"]),
    ):
        main.main(flags(tiny, tmp_path / output, *more, teacher=main is train_teacher))
    one, two = (tmp_path / name for name in ("default", "named"))
    assert_same_files(one, two, "model.safetensors", "config.json")
    losses = [[entry["total"] for entry in read_log(folder)] for folder in (one, two)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("main", [glue_with_cka_i, train_teacher])
def test_killed_and_resumed_is_bit_identical(main, tiny, tmp_path, monkeypatch):
    def arguments(output, picked="1,3"):
        return flags(
            tiny,
            tmp_path / output,
            "--student_layers",
            picked,
            "--save_steps",
            2,
            teacher=main is train_teacher,
        )

    main.main(arguments("straight"))
    step, taken = Loop.take_step, []

    def killed(loop, *args):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(loop, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "take_step", killed)
        assert common.cli(main.main, arguments("killed")) == 130
    with pytest.raises(UserError, match="student_layers was 1,3 and is 0,3"):
        main.main(arguments("killed", "0,3"))
    assert main.main(arguments("killed")) == 0
    assert_same_files(
        tmp_path / "straight", tmp_path / "killed", "model.safetensors", "config.json"
    )


def test_a_run_of_before_the_flag_goes_on(tiny, tmp_path):
    first = [*flags(tiny, tmp_path / "s", "--save_steps", 2, "--save_total_limit", 0)]
    glue_with_cka_i.main(first)
    path = tmp_path / "s/checkpoint-4/progress.json"
    progress = json.loads(path.read_text())
    assert progress["settings"].pop("student_layers") is None
    path.write_text(json.dumps(progress))
    back = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "t", *back))
    assert_same_files(tmp_path / "s", tmp_path / "t", "model.safetensors")
    with pytest.raises(UserError, match="student_layers was None and is 0,1"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "u", *back, "--student_layers", "0,1"))
    assert as_of_today({"student_num_hidden_layers": 2})["student_layers"] is None
    memory = {"student_num_hidden_layers": None, "num_centroid": 4}
    assert "student_layers" not in as_of_today(memory)
