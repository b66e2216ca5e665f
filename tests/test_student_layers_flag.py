"""--student_layers: lists that are refused; what tables, sweeps and estimates make of it."""

import json
import re
import shlex
import shutil

import pandas as pd
import pytest
from commands_of_sweeps import counts, seen, sweep
from conftest import change_json, flags, refusal
from made_up_runs import of, runs_csv, write_run

import glue_with_cka_i
import train_memory
import train_teacher
from analysis import best, table, tables
from analysis.runs import name_variants, read_runs, with_names
from common import UserError
from scripts import estimate
from training import results_csv
from training.checks import check_arguments

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
    assert "without --copy_teacher the student starts with random weights" in said


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
    change_json(path, num_hidden_layers=5)
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


def test_in_the_table_of_one_task_each_start_has_a_row(tmp_path, capsys):
    table.main([str(both(tmp_path))])
    said = capsys.readouterr().out
    assert "| VKD |" in said and "student_layers 0,2 |" in said and "student_layers 5 |" in said
    rows = [
        *of("VKD", (0.7, 0.8), **PICKED),
        *of("FSD_I", (0.6, 0.7), **PICKED),
        *of("teacher", (0.9,)),
    ]
    table.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    assert "copied layers 0,2;" in capsys.readouterr().out
    within = [*of("VKD", (0.7,), **PICKED), *of("VKD", (0.6,), **{"--student_layers": "1,3"})]
    table.main([str(runs_csv(tmp_path / "r.csv", *within))])
    said = capsys.readouterr().out
    assert "VKD, student_layers 0,2 | 70" in said and "VKD, student_layers 1,3 | 60" in said


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


# ---- sweeps and estimates ------------------------------------------------------------------------


def test_a_sweep_has_it_among_the_flags_of_all_its_runs(tmp_path):
    words = "runs vkd seed=1,2 -- fake.py --student_layers 0,2,4".split()
    planned = sweep(tmp_path, "--plan", *words, ESTIMATE="off").stdout
    assert shlex.split(planned).count("0,2,4") == 2
    assert counts(sweep(tmp_path, *words)) == (2, 2, 0, 0)
    assert counts(sweep(tmp_path, *words)) == (2, 0, 2, 0)
    told = seen(tmp_path, "vkd,seed=2")["words"]
    assert told[:4] == ["--student_layers", "0,2,4", "--seed", "2"]


def test_an_estimate_counts_them():
    for script in ("glue_with_cka_i.py", "train_teacher.py"):
        command = estimate.read_command(f"python {script} --student_layers 0\\,2\\,4", 1)
        assert estimate.student_layers(command, estimate.BERT_BASE) == 3
    assert command.form == "floor"
