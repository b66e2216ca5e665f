"""Runs that do not belong in one table are refused, and what of them may differ."""

import pandas as pd
import pytest
from made_up_runs import FSD, VKD, of, runs_csv

from analysis import table, tables
from common import UserError

MIXED = {
    "learning rate": (
        {"--learning_rate": 2e-4},
        r"RTE runs differ in --learning_rate \(0.0001, 0.0002\)",
    ),
    "length": ({"--max_seq_length": 128}, "differ in --max_seq_length"),
    "device": ({"device": "H"}, "differ in device"),
    "parameters": ({"parameters": 5}, "differ in parameters"),
    "no metric": ({"acc": None}, "FSD_I with seed 1 has no acc"),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_runs_are_refused(tmp_path, name):
    different, message = MIXED[name]
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", (0.8,), **different))
    with pytest.raises(UserError, match=message):
        tables.main([str(source)])


def test_one_seed_twice_is_refused_and_tasks_may_differ(tmp_path):
    rows = of("VKD", VKD)
    with pytest.raises(UserError, match="VKD with seed 2 is there twice for RTE"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows, rows[1]))])
    other = of("VKD", VKD, task="WNLI", **{"--learning_rate": 3e-4})
    tables.main([str(runs_csv(tmp_path / "r.csv", *rows, *other))])


def test_tuned_settings_differ_between_methods_never_within(tmp_path, capsys):
    rate = "--learning_rate"
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", FSD, **{rate: 2e-4}))
    tables.main([str(source), "--tuned", "learning_rate"])
    printed = capsys.readouterr().out
    assert (
        "learning rate 0.0001 or 0.0002, epochs 4" in printed
        and "Tuned for each method: learning_rate." in printed
    )
    within = runs_csv(
        tmp_path / "w.csv", *of("VKD", VKD), {"method": "VKD", "seed": 4, "acc": 0.7, rate: 2e-4}
    )
    with pytest.raises(UserError, match="RTE runs of VKD differ in --learning_rate"):
        tables.main([str(within), "--tuned", "learning_rate"])
    with pytest.raises(UserError, match="learning_rat is no flag"):
        tables.main([str(source), "--tuned", "learning_rat"])


def test_another_memory_is_refused_unless_its_kind_explains_it(tmp_path):
    rows = [
        *of("FSD_G", VKD, memory="aaa", memory_init="kmeans++"),
        *of("FSD_G", FSD, memory="bbb", memory_init="normal"),
    ]
    tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    rows += of("FSD_IG", FSD, memory="ccc", memory_init="kmeans++")
    with pytest.raises(UserError, match=r"different teacher memories \(aaa, ccc, by checksum\)"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])


def test_the_form_of_l_makes_no_other_memory(tmp_path):
    """FSD_ILG has --sample_features and FSD_G has not: their memory is one all the same."""
    rows = [
        *of("FSD_ILG", VKD, memory="aaa", **{"--sample_features": "flat"}),
        *of("FSD_G", FSD, memory="bbb"),
    ]
    with pytest.raises(UserError, match=r"different teacher memories \(aaa, bbb, by checksum\)"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])


def test_students_of_another_start_are_refused(tmp_path):
    """Whether layers are copied, and from what; but the student alone, of train_teacher.py, has no
    such flags.
    """
    first = {
        "teacher": "ab12",
        "--copy_teacher": True,
        "--model_name_or_path_for_copy": "/here/bert",
    }
    rows = [*of("none", VKD), *of("VKD", VKD, **first)]
    elsewhere = first | {
        "--model_name_or_path_for_copy": "/there/bert"
    }  # another machine of the same sweep
    tables.main([str(runs_csv(tmp_path / "good.csv", *rows, *of("FSD_L", FSD, **elsewhere)))])
    for name, change in (
        ("copy_teacher", {"--copy_teacher": None}),
        ("for_copy", {"--model_name_or_path_for_copy": "/here/teacher"}),
    ):
        with pytest.raises(UserError, match=name):
            tables.main(
                [
                    str(
                        runs_csv(
                            tmp_path / f"{name}.csv", *rows, *of("FSD_L", FSD, **first | change)
                        )
                    )
                ]
            )
    data = [*of("VKD", VKD, data="aa"), *of("FSD_L", FSD, data="bb")]
    with pytest.raises(UserError, match="different training data"):
        tables.main([str(runs_csv(tmp_path / "data.csv", *data))])


def test_a_table_of_one_task_takes_no_other_tasks_teacher(tmp_path):
    """A mean over two tasks is no score; nor is one over fewer runs than it says."""
    shared = "method,task,seed,acc,f1,minutes,parameters,device,machine,torch,transformers,commit"
    rest = ",1,1000,cpu,m,2,5,abc"
    rows = [
        f"teacher,RTE,1,0.6,{rest}",
        f"teacher,MRPC,2,0.8,0.8{rest}",
        f"VKD,MRPC,1,0.7,0.8{rest}",
        f"VKD,MRPC,2,,0.8{rest}",
    ]
    path = tmp_path / "r.csv"
    path.write_text("\n".join([shared, *rows]) + "\n")
    with pytest.raises(UserError, match=r"of the tasks RTE, MRPC: pick one with --task"):
        table.main([str(path)])
    with pytest.raises(UserError, match="MRPC run of VKD with seed 2 has no acc"):
        table.main([str(path), "--task", "mrpc"])


def test_the_rows_of_a_search_without_a_table(tmp_path):
    """Of its settings no table is made; its rows are kept, without the paths of the machine."""
    source = runs_csv(
        tmp_path / "search.csv",
        *of("VKD", VKD[:1]),
        *of("VKD", VKD[1:2], **{"--learning_rate": 2e-4}),
    )
    with pytest.raises(UserError, match="learning_rate"):
        table.main([str(source), "--csv", str(tmp_path / "rows.csv")])
    assert not (tmp_path / "rows.csv").exists()
    table.main([str(source), "--csv", str(tmp_path / "rows.csv"), "--no_table"])
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert list(rows["--learning_rate"]) == [1e-4, 2e-4] and "--output_dir" not in rows
    with pytest.raises(UserError, match="--no_table leaves only --csv"):
        table.main([str(source), "--no_table"])


# ---- the teacher's row ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teachers", "students", "said"),
    [
        (
            {"dev_data": "aaa"},
            {"dev_data": "bbb"},
            r"different rows to be scored on \(aaa, bbb, by checksum\)",
        ),
        ({"--max_eval_samples": 4}, {}, r"differ in --max_eval_samples \(4, not given\)"),
        ({"--text_column_names": "other"}, {}, r"--text_column_names \(other, not given\)"),
        (
            {"--label_column_name": "a"},
            {"--label_column_name": "b"},
            r"--label_column_name \(a, b\)",
        ),
    ],
)
def test_a_teacher_that_was_scored_on_other_rows_is_refused(tmp_path, teachers, students, said):
    rows = [*of("teacher", (0.9,), **teachers), *of("VKD", VKD, **students)]
    source = runs_csv(tmp_path / "r.csv", *rows)
    for command in (table, tables):
        with pytest.raises(UserError, match=f"the teacher's among them, .*{said}"):
            command.main([str(source)])


def test_teachers_of_several_training_data_are_refused(tmp_path):
    rows = [*of("teacher", (0.9,), data="aa"), {"method": "teacher", "seed": 2, "acc": 0.8}]
    table.main([str(runs_csv(tmp_path / "untold.csv", *rows))])
    rows[1]["data"] = "bb"
    with pytest.raises(
        UserError, match=r"teachers had different training data \(aa, bb, by checksum\)"
    ):
        table.main([str(runs_csv(tmp_path / "r.csv", *rows, *of("VKD", VKD, data="aa")))])


def test_a_teachers_budget_and_its_data_are_its_own(tmp_path):
    """So are rows of earlier versions, which do not say on what they were scored."""
    free = {"--learning_rate": 5e-5, "--num_train_epochs": 9, "data": "aa", "dev_data": ""}
    rows = [*of("teacher", (0.9,), **free), *of("VKD", VKD, data="bb", dev_data="ccc")]
    for command in (table, tables):
        command.main([str(runs_csv(tmp_path / "r.csv", *rows))])
