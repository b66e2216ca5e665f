"""Hand-made and damaged results are read as meant, or refused by file, line and column."""

import re

import pytest
from conftest import shell
from made_up_runs import write_record
from table_files import written

from analysis import best, predictions, summary_table, table, tables
from analysis.means import PUBLISHED
from analysis.runs import read_runs
from common import UserError
from training import cells, results_csv

COMMANDS = {
    "table": table.main,
    "tables": tables.main,
    "summary": summary_table.main,
    "best": lambda argv: best.main([*argv, "--flags", "learning_rate"]),
}
HEAD = (
    "method,task,seed,acc,minutes,parameters,device,machine,precision,processes,started,commit,"
    "torch,transformers,--learning_rate,--alpha"
)
CLEAN = "\n".join(
    [HEAD]
    + [
        f"{method},RTE,{seed},{acc},2.5,17000000,cpu,M,bf16,1,2026-0{seed},abc,2.11,5.17,0.0001,0.5"
        for method, seed, acc in (
            ("VKD", 1, 0.5),
            ("VKD", 2, 0.75),
            ("FSD_I", 1, 0.625),
            ("FSD_I", 2, 0.875),
        )
    ]
    + [""]
)
STSB = CLEAN.replace("seed,acc", "seed,pearson,spearmanr").replace("RTE", "STS-B")
STSB = re.sub(r"(,[12]),(0\.\d+),", r"\1,\2,\2,", STSB)
WRONG = {  # what line 2 has instead -> what is said of it
    "inf": (("0.5", "inf"), "'inf' in the column acc, which holds numbers from 0 to 1"),
    "-inf": (("0.5", "-inf"), "'-inf' in the column acc"),
    "infinite": (("0.5", "1e999"), "'1e999' in the column acc"),
    "negative": (("0.5", "-0.5"), "'-0.5' in the column acc, which holds numbers from 0 to 1"),
    "NaN": (("0.5", "NaN"), "'NaN' in the column acc, .*: mend or delete that line, or leave"),
    "no value": (("0.5", "N/A"), "'N/A' in the column acc"),
    "percent": (
        ("0.5", "85.3"),
        r"'85\.3' .* \(metrics are fractions, 0\.853 where 85\.3 % is meant\): mend or",
    ),
    "beyond percent": (("0.5", "853"), "'853' in the column acc, .*: mend or delete that line"),
    "a little more": (("0.5", "1.001"), "'1.001' in the column acc"),
    "a part of a seed": (("RTE,1,", "RTE,1.5,"), "'1.5' in the column seed, which holds whole num"),
    "a seed below 0": (("RTE,1,", "RTE,-1,"), "'-1' in the column seed, which holds whole numbers"),
    "an infinite seed": (("RTE,1,", "RTE,inf,"), "'inf' in the column seed"),
    "a seed of none": (("RTE,1,", "RTE,nan,"), "nothing in the column seed"),
    "minutes": (("2.5", "-2.5"), "'-2.5' in the column minutes, which holds finite numbers from 0"),
    "endless": (("2.5", "inf"), "'inf' in the column minutes, which holds finite numbers from 0"),
    "no task": (
        ("RTE", "RTW"),
        "the task 'RTW', expected a task name among CoLA, SST-2, .*: mend it",
    ),
    "two tasks": (("RTE", "RTE MRPC"), "the task 'RTE MRPC', expected a task name among CoLA"),
    "half a parameter": (("17000000", "0.5"), "'0.5' in the column parameters, which holds whole"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", WRONG)
def test_numbers_that_no_run_has_are_refused(case, command, tmp_path):
    (old, new), words = WRONG[case]
    source = written(tmp_path, CLEAN.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"r\.csv, line 2 has {words}") as refused:
        COMMANDS[command]([str(source)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("score", ["-0.9", "-1", "1", "1.0000000002"])
def test_correlations_may_be_negative(score, tmp_path):
    """And a whole one may be computed as a little more; 1.1 is none."""
    text = STSB.replace("0.5,0.5", f"{score},0.5", 1)
    assert read_runs(written(tmp_path, text)).pearson[0] == float(score)
    tables.main([str(tmp_path / "r.csv"), "--tables", "2"])
    with pytest.raises(UserError, match=r"line 2 has '-1\.1' .* which holds numbers from -1 to 1"):
        read_runs(written(tmp_path, STSB.replace("0.5,0.5", "-1.1,0.5", 1)))


def test_a_whole_number_of_a_flag(tmp_path):
    text = CLEAN.replace("--learning_rate", "--warmup_steps").replace("0.0001", "100.0")
    assert read_runs(written(tmp_path, text))["--warmup_steps"].tolist() == [100] * 4
    with pytest.raises(
        UserError, match=r"'100\.5' in the column --warmup_steps, which holds whole"
    ):
        read_runs(written(tmp_path, text.replace("100.0", "100.5", 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rte", "Rte", "RTE "])
def test_a_task_in_another_spelling_is_the_task(name, tmp_path, capsys):
    """Also beside rows in GLUE's own, whose task it is then."""
    table.main([str(written(tmp_path, CLEAN, "clean.csv"))])
    expected = capsys.readouterr().out
    for text in (CLEAN.replace("RTE", name), CLEAN.replace("RTE", name, 1)):
        source = written(tmp_path, text)
        table.main([str(source), "--task", "RTE"])
        assert capsys.readouterr().out == expected
        tables.main([str(source), "--task", "rte"])
        assert "RTE" in capsys.readouterr().out
    assert set(read_runs(written(tmp_path, CLEAN.replace("RTE", "sst2"))).task) == {"SST-2"}


def test_seeds_of_a_spreadsheet_are_numbers_of_runs(tmp_path, capsys):
    source = written(tmp_path, re.sub(r"RTE,(\d)", r"RTE,\1.0", CLEAN))
    assert read_runs(source).seed.tolist() == [1, 2, 1, 2]
    table.main([str(source)])
    assert "seeds 1 and 2" in capsys.readouterr().out.replace("1, 2", "1 and 2")


def test_a_metric_that_is_not_there_is_no_mistake_of_reading(tmp_path):
    text = CLEAN.replace(",0.5,", ",,", 1)
    assert read_runs(written(tmp_path, text)).acc.isna().tolist() == [True, False, False, False]


def test_a_diverged_run_leaves_the_table_readable(tmp_path):
    """Its loss may be infinite, which no table shows."""
    text = CLEAN.replace("seed,acc", "seed,eval_loss,acc")
    text = re.sub(r"RTE,(\d),", r"RTE,\1,inf,", text)
    assert len(read_runs(written(tmp_path, text))) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_without_rows_and_no_table_are_said_to_be_that(command, tmp_path):
    source = written(tmp_path, CLEAN.splitlines()[0] + "\n", "header.csv")
    with pytest.raises(UserError, match=r"header\.csv has a header, but no row of a run: give"):
        COMMANDS[command]([str(source)])
    with pytest.raises(UserError, match=r"there is no .*absent\.csv, neither a results"):
        COMMANDS[command]([str(tmp_path / "absent.csv")])


# ---- folders of runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"results": {"acc": 85.3}},
            r"'85\.3' in the column acc, .* \(metrics are fractions, 0\.853 .*: mend it",
        ),
        ({"results": {"acc": float("nan")}}, "'nan' in the column acc"),
        ({"results": {"acc": float("inf")}}, "'inf' in the column acc"),
        ({"results": {"acc": "good"}}, "'good' in the column acc, which holds numbers from 0 to 1"),
        ({"results": {"acc": True}}, "'True' in the column acc"),
        ({"arguments": {"task_name": "RTE", "seed": 1.5}}, "'1.5' in the column seed"),
        (
            {"arguments": {"task_name": "RTW", "seed": 1}},
            "the task 'RTW', expected a task name among",
        ),
        ({"train_seconds": -60}, "'-1.0' in the column minutes"),
    ],
)
def test_a_run_json_is_held_to_the_same(changes, words, tmp_path):
    write_record(tmp_path / "runs/a")
    write_record(tmp_path / "runs/b", method="FSD_L", **changes)
    with pytest.raises(UserError, match=rf"b/run\.json has {words}"):
        table.main([str(tmp_path / "runs")])


def test_a_run_json_with_a_task_in_lower_case(tmp_path):
    write_record(tmp_path / "runs/a", arguments={"task_name": "rte", "seed": 1})
    assert read_runs(tmp_path / "runs").task.tolist() == ["RTE"]


FIELDS = "method train_seconds examples_per_second parameters device machine precision processes "
FIELDS += "steps started commit versions arguments results"


@pytest.mark.parametrize("field", FIELDS.split())
@pytest.mark.parametrize("value", ["gone", None, [1]])
def test_a_field_that_a_row_needs_is_named(field, value, tmp_path):
    write_record(tmp_path / "runs/a", **{field: value})
    with pytest.raises(UserError, match=rf"a/run\.json is .*{field}") as refused:
        table.main([str(tmp_path / "runs")])
    assert "\n" not in str(refused.value)


def test_the_teacher_of_a_run_may_be_none_and_its_memory_unknown(tmp_path):
    write_record(tmp_path / "runs/a", teacher=None, peak_memory_mib="gone")
    assert read_runs(tmp_path / "runs").teacher.tolist() == [""]


@pytest.mark.parametrize("earlier", [3, [3], ["a"], [{}], {"a": 1}])
def test_earlier_parts_that_are_none_are_refused(earlier, tmp_path):
    write_record(tmp_path / "runs/a", earlier=earlier)
    with pytest.raises(UserError, match=r"a/run\.json is not the record of a finished run"):
        table.main([str(tmp_path / "runs")])


# ---- other tables --------------------------------------------------------------------------------

MEAN = "method,task,metric,mean,std,n\nVKD,RTE,acc,65.5,1.5,3\n"


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("RTE", "RTW", "the task 'RTW', expected a task name among"),
        ("acc,", "mcc,", r"the metric mcc, not one of RTE's \(acc\)"),
        ("65.5", "inf", "'inf' in the column mean, which holds finite numbers"),
        ("65.5", "-65.5", "the mean -65.5, expected a percentage from 0 to 100"),
        ("65.5", "655", "the mean 655, expected a percentage from 0 to 100"),
        ("1.5", "-1.5", "'-1.5' in the column std, which holds finite numbers from 0 on"),
        (",3", ",0", "'0' in the column n, which holds whole numbers from 1 on"),
        (",3", ",2.5", "'2.5' in the column n"),
    ],
)
def test_means_that_no_runs_have_are_refused(old, new, words, tmp_path):
    source = written(tmp_path, MEAN.replace(old, new), "means.csv")
    with pytest.raises(UserError, match=rf"means\.csv, line 2 has {words}"):
        tables.main([str(source)])
    tables.main([str(written(tmp_path, MEAN.replace("RTE", "rte"))), "--tables", "2"])


def test_the_published_means_are_within_all_limits():
    tables.main([str(PUBLISHED), "--tables", "2", "3"])


def test_predictions_of_no_task_are_refused_by_their_line(tmp_path):
    source = written(
        tmp_path, "run,task,method,seed,started,split,predictions\na,RTW,VKD,1,,dev,0\n"
    )
    with pytest.raises(
        UserError, match=r"r\.csv, line 2 has the task 'RTW', expected a task name among"
    ):
        predictions.read([str(source)])


def test_limits_are_those_of_what_is_written(tmp_path):
    """Whatever a run appends can be read again, at both ends of its limits."""
    for name, limits in cells.METRICS.items():
        for value in (limits.least, limits.most, 0.5):
            row = {"method": "VKD", "task": "RTE", "seed": 2**32 - 1, name: value}
            path = tmp_path / f"{name}{value}.csv"
            results_csv.append_result(path, row)
            assert results_csv.read_results(path)[name].tolist() == [value]


# ---- best ----------------------------------------------------------------------------------------


def searched(folder, *rows):
    """A results.csv of VKD with flags of its own: rows of (seed, acc, {column: text})."""
    columns = list(dict.fromkeys(column for _, _, flags in rows for column in flags))
    lines = [",".join(["method", "task", "seed", "acc", *columns])]
    for seed, acc, flags in rows:
        lines.append(",".join(["VKD", "RTE", str(seed), str(acc), *map(flags.get, columns)]))
    return str(written(folder, "\n".join(lines) + "\n"))


def best_of(source, *flags):
    """analysis/best.py as a user runs it; (what it prints, what it says)."""
    done = shell("analysis/best.py", source, "--flags", *flags)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_best_says_why_a_value_that_nobody_gave_is_no_flag(tmp_path):
    rows = (1, 0.8, {"--alpha": ""}), (1, 0.6, {"--alpha": "0.5"})
    printed, said = best_of(searched(tmp_path, *rows), "alpha")
    assert printed == "" and said.count("\n") == 0
    assert said.startswith("error: the RTE run of VKD with seed 1 has no value of --alpha, which")


def test_best_says_that_the_best_setting_is_without_a_flag(tmp_path):
    """One that a run may leave out, as it has no default of its own."""
    name = "--student_memory_learning_rate"
    rows = (1, 0.8, {name: ""}), (1, 0.6, {name: "0.5"})
    printed, said = best_of(searched(tmp_path, *rows), name.removeprefix("--"))
    assert printed == "" and f"with no {name}; next 60.00 with {name} 0.5" in said


@pytest.mark.slow
def test_best_takes_a_flag_once(tmp_path):
    rows = (1, 0.8, {"--alpha": "0.7"}), (1, 0.6, {"--alpha": "0.5"})
    source = searched(tmp_path, *rows)
    for words in (["alpha", "alpha"], ["alpha", "--flags", "alpha"], ["alpha", "--flags=--alpha"]):
        assert best_of(source, *words)[0] == "--alpha 0.7"


def test_best_finds_a_flag_of_the_memory_in_its_column(tmp_path):
    """memory_init has a column without dashes, as the memory's file tells of it."""
    rows = [
        (seed, acc, {"memory_init": init, "--alpha": "0.5"})
        for init, acc in (("kmeans++", 0.8), ("random", 0.6))
        for seed in (1, 2)
    ]
    printed, said = best_of(searched(tmp_path, *rows), "memory_init", "alpha")
    assert printed == "--memory_init kmeans++ --alpha 0.5"
    assert "next 60.00 with --memory_init random --alpha 0.5" in said


@pytest.mark.parametrize("flag", ["seed", "acc", "", "alpah", "alpha=0.5", "task_name"])
def test_best_refuses_what_is_no_flag_of_a_search(flag, tmp_path):
    rows = (1, 0.8, {"--alpha": "0.7"}), (1, 0.6, {"--alpha": "0.5"})
    source = searched(tmp_path, *rows)
    with pytest.raises(UserError, match=rf"(the flag --{flag}:|--flags {flag} cannot be searched)"):
        best.main([source, "--flags", "alpha", flag])


@pytest.mark.slow
def test_best_switches_a_bare_flag_on_and_off(tmp_path):
    rows = (1, 0.8, {"--copy_teacher": ""}), (1, 0.6, {"--copy_teacher": "True"})
    source = searched(tmp_path, *rows)
    assert best_of(source, "copy_teacher")[0] == ""  # off is no flag, as it was
    rows = (1, 0.5, {"--copy_teacher": ""}), (1, 0.6, {"--copy_teacher": "True"})
    assert best_of(searched(tmp_path, *rows), "copy_teacher")[0] == "--copy_teacher"
