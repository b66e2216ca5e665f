"""--student_layers: students that copy chosen layers, in every script, file and table."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, flags, read_log, save_models, wordpiece
from safetensors.torch import load_file
from test_inputs import refusal
from test_models import byte_level
from test_tables import of, runs_csv, write_run

import common
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from analysis import best, table, tables
from analysis.runs import name_variants, read_runs, with_names
from baselines import glue_with_baseline
from common import UserError
from loop import Loop
from scripts import estimate
from tasks.glue import get_task
from training import models, results_csv, students
from training.checks import check_arguments
from training.flags import as_of_today, hyperparameters
from training.tokenizer import load_tokenizer

FAMILIES = {
    "bert": (wordpiece, {}),
    "roberta": (byte_level, {"type_vocab_size": 1}),
    "distilbert": (wordpiece, {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24}),
    "mpnet": (byte_level, {}),
    "electra": (wordpiece, {"embedding_size": 8}),
    "deberta-v2": (wordpiece, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "xlnet": (
        wordpiece,
        {"d_model": 16, "n_layer": 4, "n_head": 2, "d_inner": 24, "max_position_embeddings": None},
    ),
    "modernbert": (
        byte_level,
        {
            "cls_token_id": 0,
            "sep_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "local_attention": 4,
        },
    ),
    "albert": (wordpiece, {"embedding_size": 8}),
}
LAYER = re.compile(r"\blayers?\.(\d+)\.")  # in the names of weights


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The name of a family, and a folder with models of it."""
    folder = tmp_path_factory.mktemp(request.param)
    make_tokenizer, shape = FAMILIES[request.param]
    return request.param, save_models(folder, request.param, make_tokenizer(folder), **shape)


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
    make_tokenizer, shape = FAMILIES["modernbert"]
    folder = save_models(tmp_path, "modernbert", make_tokenizer(tmp_path), **shape)
    with pytest.raises(UserError, match=r"layer 1 of .* no such attn_norm.weight: let the list"):
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


@pytest.mark.parametrize("main", [glue_with_cka_i, train_teacher])
def test_the_first_layers_by_name_are_the_first_layers_bit_for_bit(main, tiny, tmp_path):
    """With dropout: the new head and all that is drawn after it are the same."""
    for output, more in (
        ("default", ["--student_num_hidden_layers", 3]),
        ("named", ["--student_layers", "0,1,2"]),
    ):
        main.main(flags(tiny, tmp_path / output, *more, teacher=main is train_teacher))
    one, two = (tmp_path / name for name in ("default", "named"))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "config.json").read_bytes() == (two / "config.json").read_bytes()
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
    for name in ("model.safetensors", "config.json"):
        one, two = (tmp_path / run / name for run in ("straight", "killed"))
        assert one.read_bytes() == two.read_bytes()


def test_a_run_of_before_the_flag_goes_on(tiny, tmp_path):
    first = [*flags(tiny, tmp_path / "s", "--save_steps", 2, "--save_total_limit", 0)]
    glue_with_cka_i.main(first)
    path = tmp_path / "s/checkpoint-4/progress.json"
    progress = json.loads(path.read_text())
    assert progress["settings"].pop("student_layers") is None
    path.write_text(json.dumps(progress))
    back = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "t", *back))
    one, two = (tmp_path / name / "model.safetensors" for name in "st")
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(UserError, match="student_layers was None and is 0,1"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "u", *back, "--student_layers", "0,1"))
    assert as_of_today({"student_num_hidden_layers": 2})["student_layers"] is None
    memory = {"student_num_hidden_layers": None, "num_centroid": 4}
    assert "student_layers" not in as_of_today(memory)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, said",
    [
        ("", "found ''"),
        ("0,,2", "found '0,,2'"),
        ("0,2,", "found '0,2,'"),
        ("a", "found 'a'"),
        ("0;2", "found '0;2'"),
        ("0 2", "found '0 2'"),
        ("1.0", "found '1.0'"),
        ("-1,2", "found '-1,2'"),
        ("[0,2]", "found '[0,2]'"),
        ("\u0663", "found"),
        ("0,2,2", "found layer 2 twice"),
        ("2,0,2", "found layer 2 twice"),
        ("2,0", "found 2,0: pass 0,2"),
        ("0,3,1", "pass 0,1,3"),
    ],
)
def test_a_list_that_is_none_is_refused(word, said, capsys):
    for main in (glue_with_cka_i, train_teacher):
        needed = "--model_name_or_path t --data_dir d --output_dir o --task_name rte".split()
        with pytest.raises(SystemExit) as stopped:
            main.make_parser().parse_args([*needed, f"--student_layers={word}"])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1
        assert "--student_layers: expected layers" in error and said in error


REFUSED = {
    "too large": (["--student_layers", "0,4"], "layer 4, but .*pretrained has 4 layers, 0 to 3"),
    "another number": (
        ["--student_layers", "0,2", "--student_num_hidden_layers", 3],
        "of 2 layers, but .* is 3",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
@pytest.mark.parametrize("main", [glue_with_cka_i, train_teacher])
def test_what_the_source_or_a_flag_contradicts_is_refused(mistake, main, tiny, tmp_path, capsys):
    more, said = REFUSED[mistake]
    arguments = flags(tiny, tmp_path / "s", *more, teacher=main is train_teacher)
    assert re.search(said, refusal(capsys, arguments, main.main))
    assert not (tmp_path / "s/model.safetensors").exists()


def test_a_student_that_copies_nothing_has_no_use_for_it(tiny, tmp_path, capsys):
    arguments = flags(tiny, tmp_path / "s", "--student_layers", "0,2")
    arguments.remove("--copy_teacher")
    said = refusal(capsys, arguments)
    assert "without --copy_teacher the student starts at random" in said


def test_the_same_number_of_layers_is_no_contradiction(tiny, tmp_path):
    args = glue_with_cka_i.make_parser().parse_args(
        flags(tiny, tmp_path / "s", "--student_layers", "00,2", "--student_num_hidden_layers", 2)
    )
    check_arguments(args)
    assert args.student_layers == "0,2"


def test_a_memory_has_no_student(capsys):
    needed = "--model_name_or_path t --data_dir d --output_dir o --task_name rte".split()
    with pytest.raises(SystemExit):
        train_memory.parse([*needed, "--student_layers", "0,2"])
    assert "unrecognized arguments: --student_layers" in capsys.readouterr().err


def test_a_source_without_some_layer_is_refused(tiny, tmp_path, capsys):
    """Of a layer that is not among the first ones."""
    shutil.copytree(tiny / "pretrained", tmp_path / "pretrained")
    path = tmp_path / "pretrained/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 5}))
    said = refusal(
        capsys,
        flags(
            tiny,
            tmp_path / "s",
            "--student_layers",
            "0,4",
            "--model_name_or_path_for_copy",
            tmp_path / "pretrained",
        ),
    )
    assert "pretrained lacks 16 weights of a bert encoder, the first bert.encoder.layer.4." in said


# ---- tables --------------------------------------------------------------------------------------

PICKED = {"--student_layers": "0,2"}


def both(tmp_path, separator=","):
    """A table of results in which students with chosen layers are beside the usual ones."""
    rows = [
        *of("VKD", (0.7, 0.8)),
        *of("FSD_I", (0.8, 0.9)),
        *of("FSD_I", (0.6, 0.7), **PICKED),
        *of("none", (0.5, 0.6), **{"--student_layers": "5"}),
        *of("none", (0.4, 0.5)),
        *of("teacher", (0.9,)),
    ]
    path = runs_csv(tmp_path / "r.csv", *rows)
    if separator == ";":
        cells = pd.read_csv(path, dtype=str)
        cells["acc"] = cells.acc.str.replace(".", ",", regex=False)
        cells.to_csv(path, sep=";", index=False)
    return path


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_student_with_chosen_layers_is_a_variant(separator, tmp_path, capsys):
    path = both(tmp_path, separator)
    assert read_runs(path)["--student_layers"].dropna().unique().tolist() == ["0,2", "5"]
    tables.main([str(path), "--tables", "2", "--csv", str(tmp_path / "numbers.csv")])
    found = pd.read_csv(tmp_path / "numbers.csv").dropna(subset="mean").set_index("method")["mean"]
    expected = {
        "FSD_I": 85,
        "FSD_I, student_layers 0,2": 65,
        "VKD": 75,
        "teacher": 90,
        "none": 45,
        "none, student_layers 5": 55,
    }
    assert found.to_dict() == pytest.approx(expected)
    said = capsys.readouterr().out
    assert "FSD_I, student_layers 0,2, RTE: acc" in said and "copied layers" not in said


def test_a_table_without_variants_wants_one_start(tmp_path, capsys):
    with pytest.raises(UserError, match=r"differ in --student_layers \(nan, 0,2, 5\)"):
        table.main([str(both(tmp_path))])
    rows = [
        *of("VKD", (0.7, 0.8), **PICKED),
        *of("FSD_I", (0.6, 0.7), **PICKED),
        *of("teacher", (0.9,)),
    ]
    table.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    assert "copied layers 0,2;" in capsys.readouterr().out
    within = [*of("VKD", (0.7,), **PICKED), *of("VKD", (0.6,), **{"--student_layers": "1,3"})]
    with pytest.raises(UserError, match="differ in --student_layers"):
        table.main([str(runs_csv(tmp_path / "r.csv", *within))])


def test_a_row_is_appended_and_read_as_it_was(tmp_path):
    for seed, picked in ((1, "0,2"), (2, "3"), (3, None)):
        write_run(tmp_path / f"runs/{seed}", "FSD_I", 0.7, seed=seed, student_layers=picked)
        row = results_csv.result_row(json.loads((tmp_path / f"runs/{seed}/run.json").read_text()))
        results_csv.append_result(tmp_path / "r.csv", row | {"--output_dir": str(seed)})
    names = ["FSD_I, student_layers 0,2", "FSD_I, student_layers 3", "FSD_I"]
    for source in (tmp_path / "r.csv", tmp_path / "runs"):
        assert with_names(name_variants(read_runs(source))).method.tolist() == names


def test_the_best_layers_are_written_as_the_flag(tmp_path, capsys):
    rows = [
        *of("VKD", (0.7, 0.8)),
        *of("VKD", (0.8, 0.9), **PICKED),
        *of("VKD", (0.1, 0.2), **{"--student_layers": "1,3"}),
    ]
    path = str(runs_csv(tmp_path / "r.csv", *rows))
    with pytest.raises(UserError, match="differ in --student_layers"):
        best.main([path, "--flags", "learning_rate"])
    best.main([path, "--flags", "student_layers"])
    said = capsys.readouterr()
    assert said.out == "--student_layers 0,2\n" and "the best of 3 settings" in said.err
    best.main([path, "--flags", "student_layers", "--table"])
    assert "| 1,3" in capsys.readouterr().out


# ---- a sweep -------------------------------------------------------------------------------------

FAKE = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
(folder / "run.json").write_text(json.dumps({"finished": True, "words": sys.argv}, indent=2))
"""


def test_a_sweep_has_it_among_the_flags_of_all_its_runs(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    words = ["runs", "vkd", "seed=1,2", "--", "fake.py", "--student_layers", "0,2,4"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "ESTIMATE": "off"}

    def sweep(*more):
        return subprocess.run(
            [ROOT / "scripts/sweep", *more, *words],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            env=environment,
        )

    planned = shlex.split(sweep("--plan").stdout)
    assert planned.count("0,2,4") == 2
    assert "2 done now" in sweep().stderr and "2 skipped as finished" in sweep().stderr
    words = json.loads((tmp_path / "runs/vkd,seed=2/run.json").read_text())["words"]
    assert words[1:5] == ["--student_layers", "0,2,4", "--seed", "2"]


def test_an_estimate_counts_them():
    for script in ("glue_with_cka_i.py", "train_teacher.py"):
        command = estimate.read_command(f"python {script} --student_layers 0\\,2\\,4", 1)
        assert estimate.student_layers(command, estimate.BERT_BASE) == 3
    assert command.form == "floor"
