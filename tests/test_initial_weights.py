"""What a model began with is in its record, and runs that began with different weights are told
apart."""

import pytest
from conftest import change_json, flags, save_models, write_task
from made_up_runs import FSD, VKD, of, runs_csv

import glue_with_cka_i
import train_teacher
from analysis import best, table, tables
from common import UserError, read_json
from training.results_csv import read_results

ONE, TWO = "1" * 12, "2" * 12


def record(folder):
    return read_json(folder / "run.json")


@pytest.fixture(scope="module")
def two_of_a_name(tmp_path_factory):
    """Two folders with models of one shape, name and task, but other weights."""
    folders = [tmp_path_factory.mktemp("start") for _ in range(2)]
    for seed, folder in enumerate(folders):
        write_task(save_models(folder, seed=seed))
    return folders


@pytest.mark.slow
def test_students_begin_alike_whatever_the_seed_and_the_method(two_of_a_name, tmp_path):
    tiny, _ = two_of_a_name
    short = ["--max_steps", "1"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "vkd", *short, "--beta", "0"))
    glue_with_cka_i.main(flags(tiny, tmp_path / "i", *short, "--internal", "--seed", "5"))
    layers = ["--student_num_hidden_layers", "2"]
    train_teacher.main(flags(tiny, tmp_path / "none", *short, *layers, teacher=True))
    found = {record(tmp_path / name)["initial_weights"] for name in ("vkd", "i", "none")}
    assert len(found) == 1
    other = ["--student_layers", "1,3"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "other", *short, *other))
    assert record(tmp_path / "other")["initial_weights"] not in found


def test_a_random_start_has_no_fingerprint(two_of_a_name, tmp_path):
    words = flags(two_of_a_name[0], tmp_path / "r", "--max_steps", "1")
    glue_with_cka_i.main([word for word in words if word != "--copy_teacher"])
    assert "initial_weights" not in record(tmp_path / "r")


def test_a_resumed_run_knows_what_its_first_part_began_with(two_of_a_name, tmp_path):
    whole = flags(
        two_of_a_name[0], tmp_path / "run", "--save_steps", "3", "--save_total_limit", "9"
    )
    glue_with_cka_i.main(whole)
    before = record(tmp_path / "run")["initial_weights"]
    # as a run that was killed while it trained
    change_json(tmp_path / "run/run.json", finished=False, trained=False, initial_weights=before)
    glue_with_cka_i.main([*whole, "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-3")])
    assert record(tmp_path / "run")["initial_weights"] == before


def test_a_table_refuses_students_of_two_starts_of_one_name(two_of_a_name, tmp_path):
    one, two = two_of_a_name
    csv = ["--results_csv", str(tmp_path / "r.csv"), "--max_steps", "1"]
    glue_with_cka_i.main(flags(one, tmp_path / "a", *csv))
    words = flags(one, tmp_path / "b", *csv, "--seed", "2")
    words[words.index(str(one / "pretrained"))] = str(two / "pretrained")
    glue_with_cka_i.main(words)
    assert read_results(tmp_path / "r.csv").initial_weights.nunique() == 2
    with pytest.raises(UserError, match=r"students began with different weights .*by checksum"):
        table.main([str(tmp_path / "r.csv")])


def test_starts_that_should_differ_may(tmp_path):
    """Layers picked from elsewhere are a variant, with weights of their own."""
    teacher = {"teacher": "t" * 12}
    one, two = ({**teacher, "initial_weights": name} for name in (ONE, TWO))
    rows = [*of("VKD", VKD, **one), *of("VKD", FSD, **two, **{"--student_layers": "0,2"})]
    tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    untold = [*of("VKD", VKD, **one), *of("FSD_I", FSD, **teacher)]  # of an earlier version
    tables.main([str(runs_csv(tmp_path / "u.csv", *untold))])
    with pytest.raises(UserError, match="students began with different weights"):
        tables.main(
            [str(runs_csv(tmp_path / "w.csv", *of("VKD", VKD, **one), *of("PKD", FSD, **two)))]
        )


def test_students_without_a_teacher_began_like_the_others(tmp_path):
    """As train_teacher.py trains them: two starts are not averaged, nor beside distilled ones."""
    for other in ("none", "VKD"):
        taught = {} if other == "none" else {"teacher": "t" * 12}
        rows = [
            *of("none", VKD, initial_weights=ONE),
            {"method": other, "seed": 9, "acc": 0.7, "initial_weights": TWO, **taught},
        ]
        with pytest.raises(UserError, match="students began with different weights"):
            table.main([str(runs_csv(tmp_path / "r.csv", *rows))])


def test_known_weights_count_and_not_their_folder(tmp_path):
    copied = "--model_name_or_path_for_copy"
    one = {"teacher": "t" * 12, copied: "/a/bert", "--copy_teacher": True}
    two = one | {copied: "/b/other-name"}
    rows = [*of("VKD", VKD, **one), *of("FSD_I", FSD, **two)]
    with pytest.raises(UserError, match=r"differ in what they copy layers from"):
        table.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    table.main(
        [str(runs_csv(tmp_path / "r.csv", *(row | {"initial_weights": ONE} for row in rows)))]
    )


def test_a_search_that_an_earlier_version_began_is_read(tmp_path):
    """Its runs do not say what they began with."""
    rows = [
        {"method": "VKD", "seed": 1, "acc": 0.7, "--learning_rate": 1e-4},
        {"method": "VKD", "seed": 1, "acc": 0.7, "--learning_rate": 2e-4, "initial_weights": ONE},
    ]
    best.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--flags", "learning_rate"])


def test_a_search_of_two_starts_is_refused(tmp_path):
    starts = ((1e-4, ONE), (2e-4, TWO))
    rows = [
        {"method": "VKD", "seed": 1, "acc": 0.7, "--learning_rate": rate, "initial_weights": start}
        for rate, start in starts
    ]
    source = str(runs_csv(tmp_path / "r.csv", *rows))
    with pytest.raises(UserError, match="these runs differ in initial_weights"):
        best.main([source, "--flags", "learning_rate"])
    rows = [
        row | {"--student_layers": layers} for row, layers in zip(rows, ("0,2", "0,1"), strict=True)
    ]
    source = str(runs_csv(tmp_path / "s.csv", *rows))
    best.main([source, "--flags", "learning_rate", "student_layers"])


def test_teachers_of_two_starts_are_refused(tmp_path):
    rows = [
        {"method": "teacher", "seed": seed, "acc": 0.9, "initial_weights": start}
        for seed, start in ((1, ONE), (2, TWO))
    ]
    with pytest.raises(UserError, match="teachers had different initial weights"):
        table.main([str(runs_csv(tmp_path / "r.csv", *rows, *of("VKD", VKD)))])
