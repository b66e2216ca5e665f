"""analysis/best.py: the best setting of a search, as flags, and the searches that it refuses."""

import pytest
from conftest import shell
from made_up_runs import of, runs_csv, write_run

from analysis import best
from common import UserError


def search(path, **fields):
    """VKD's runs for two rates, two temperatures and two seeds; 5e-5 with 10 is the best."""
    scores = {
        (5e-5, 10.0): (0.80, 0.84),
        (5e-5, 5.0): (0.90, 0.70),
        (1e-5, 10.0): (0.81, 0.82),
        (1e-5, 5.0): (0.5, 0.6),
    }
    return runs_csv(
        path,
        *[
            run
            for (rate, temperature), pair in scores.items()
            for run in of(
                "VKD",
                pair,
                **{
                    "--learning_rate": rate,
                    "--temperature": temperature,
                    "--output_dir": "/x/vkd-1",
                }
                | fields,
            )
        ],
    )


def test_best_prints_the_best_setting(tmp_path):
    source = search(tmp_path / "r.csv")
    done = shell(
        "analysis/best.py", source, "--flags", "temperature", "learning_rate", "--expect", 8
    )
    assert done.returncode == 0 and done.stdout == "--temperature 10 --learning_rate 5e-05\n"
    assert done.stderr == (
        "VKD on RTE: 82.00 (mean of acc, %), the best of 4 settings, seeds a setting: 2; next "
        "81.50 with --temperature 10 --learning_rate 1e-05\n"
    )


def test_of_equal_settings_best_takes_the_smallest(tmp_path, capsys):
    rows = [run for beta in (3, 1, 2) for run in of("FSD_I", (0.7,), **{"--beta": beta})]
    best.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--flags", "beta"])
    assert capsys.readouterr().out == "--beta 1\n"


def test_best_scores_by_the_mean_of_the_metrics(tmp_path, capsys):
    rows = [
        {
            "method": "VKD",
            "seed": 1,
            "task": "MRPC",
            "acc": acc,
            "f1": f1,
            "--mask_padding": masked,
            "--group_by_length": False,
        }
        for acc, f1, masked in ((0.8, 0.8, None), (0.75, 0.9, True))
    ]
    best.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--flags", "mask_padding"])
    assert capsys.readouterr().out == "--mask_padding\n"


def test_best_shows_all_settings(tmp_path, capsys):
    best.main(
        [str(search(tmp_path / "r.csv")), "--flags", "learning_rate", "temperature", "--table"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "5e-05",
        "10.0",
        "82.00 ± 2.83",
        "2",
    ]
    assert len(lines) == 6 and "55.00" in lines[-1]


def test_best_takes_the_runs_of_a_method_or_a_name(tmp_path, capsys):
    folder = tmp_path / "search"
    for name, method, rate, score in (
        ("vkd-a", "VKD", 1e-5, 0.6),
        ("vkd-b", "VKD", 2e-5, 0.7),
        ("fsd-a", "FSD_I", 3e-5, 0.9),
        ("cut", "VKD", 4e-5, 0.99),
    ):
        write_run(folder / name, method, score, finished=name != "cut", learning_rate=rate)
    for more, expected in (
        (["--method", "VKD"], "2e-05"),
        (["--name", "fsd-"], "3e-05"),
        (["--name", "vkd"], "2e-05"),
    ):
        best.main([str(folder), "--flags", "learning_rate", *more])
        assert capsys.readouterr().out == f"--learning_rate {expected}\n"
    with pytest.raises(UserError, match=r"differ in method \(FSD_I, VKD\)"):
        best.main([str(folder), "--flags", "learning_rate"])
    with pytest.raises(UserError, match="has 2 finished runs of VKD, not 3"):
        best.main([str(folder), "--flags", "learning_rate", "--method", "VKD", "--expect", "3"])
    write_run(folder / "vkd-c", "VKD", 0.99, data="other", learning_rate=4e-5)
    with pytest.raises(UserError, match=r"differ in data \(abc, other\)"):
        best.main([str(folder), "--flags", "learning_rate", "--method", "VKD"])


def test_best_refuses_runs_of_several_searches(tmp_path):
    source = search(tmp_path / "r.csv")
    with pytest.raises(
        UserError, match=r"differ in --temperature \(10.0, 5.0\), which --flags does not name"
    ):
        best.main([str(source), "--flags", "learning_rate"])
    with pytest.raises(UserError, match="do not have the flag --gamma"):
        best.main([str(source), "--flags", "learning_rate", "temperature", "gamma"])
    with pytest.raises(UserError, match="has 0 finished runs of PKD"):
        best.main([str(source), "--flags", "learning_rate", "--method", "PKD"])
    twice = runs_csv(tmp_path / "t.csv", *of("VKD", (0.7,)), *of("VKD", (0.8,)))
    with pytest.raises(UserError, match=r"--learning_rate 0.0001 with seed 1 is there twice"):
        best.main([str(twice), "--flags", "learning_rate"])
    tasks = runs_csv(tmp_path / "k.csv", *of("VKD", (0.7,)), *of("VKD", (0.8,), task="WNLI"))
    with pytest.raises(UserError, match=r"differ in task \(RTE, WNLI\)"):
        best.main([str(tasks), "--flags", "learning_rate"])
