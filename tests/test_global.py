"""glue_with_cka_g.py as a user runs it, on tiny random models."""

import json

import pandas as pd
import pytest
import torch
import transformers
from conftest import assert_same_files, flags, memory_flags, read_log, save_models, teacher_features
from safetensors.torch import load_file
from stopped_runs import stopped_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cka
import glue_with_cka_g
import memory
import train_memory
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from training import memory_file
from training.batches import flat, windows


def test_fsd_g(trained, tiny_without_dropout, tmp_path):
    output = tmp_path / "s"
    arguments = flags(
        tiny_without_dropout,
        output,
        "--beta",
        2,
        "--gamma_m",
        0.25,
        "--teacher_memory_path",
        trained,
        "--save_steps",
        2,
        "--results_csv",
        tmp_path / "r.csv",
    )
    assert glue_with_cka_g.main(arguments) == 0
    log = read_log(output)
    for entry in log:
        structure = entry["F_MM"] + 0.25 * entry["F_E"] + 0.75 * entry["F_C"]
        assert entry["total"] == pytest.approx(
            0.5 * entry["ce"] + 0.5 * entry["kd"] + 2 * structure, rel=1e-5
        )
    row = pd.read_csv(tmp_path / "r.csv").iloc[0]
    assert (row.method, row["--gamma_m"]) == ("FSD_G", 0.25)
    run = json.loads((output / "run.json").read_text())
    assert run["teacher_memory"]["task"] == "RTE"
    board = EventAccumulator(str(output / "tensorboard"), purge_orphaned_data=False).Reload()
    assert {"loss/F_MM", "loss/F_E", "loss/F_C"} <= set(board.Tags()["scalars"])

    start = memory.Memories(load_file(trained / memory_file.FILE)["centroids"], 16, 24, 42).student
    state = load_file(output / "checkpoint-4/training_state.safetensors")
    trained_memory = load_file(output / "student_memory.safetensors")["centroids"]
    assert not torch.equal(state["losses.0.student"], start) and not torch.equal(
        trained_memory, start
    )
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        output, output_loading_info=True
    )
    assert (
        not info["unexpected_keys"] and not info["missing_keys"]
    )  # plain BERT: the memory is not in it
    assert type(model).__name__ == "BertForSequenceClassification"


def test_the_first_losses_are_the_equations(trained, tiny_without_dropout, tmp_path):
    """F_MM, F_E and F_C of the first step, from the models by transformers alone and Eq. 8-9 by
    loops.
    """
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--teacher_memory_path",
            trained,
            "--gamma_m",
            0.5,
            "--learning_rate",
            0,
            "--max_steps",
            1,
        )
    )
    entry = read_log(tmp_path / "s")[0]
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    h_t = teacher_features(tiny_without_dropout)[indices]
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher")
    rows = load_features(get_task("rte"), tiny_without_dropout, "train", tokenizer, 24).tensors
    rows = {key: value[indices].long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        h_s = student(**rows, output_hidden_states=True).hidden_states[1].flatten(1)  # of 2 layers
    m_t = load_file(trained / memory_file.FILE)["centroids"]
    m_s = load_file(tmp_path / "s/student_memory.safetensors")["centroids"]
    distance_t, distance_s = torch.cdist(h_t, m_t), torch.cdist(h_s, m_s)
    cosine_t, cosine_s = (
        torch.nn.functional.cosine_similarity(h[:, None], m[None], dim=-1)
        for h, m in ((h_t, m_t), (h_s, m_s))
    )
    assert entry["F_E"] == pytest.approx((distance_t - distance_s).square().mean().item(), rel=1e-4)
    assert entry["F_C"] == pytest.approx((cosine_t - cosine_s).square().mean().item(), rel=1e-4)
    assert entry["F_MM"] == pytest.approx(-cka.linear_cka(m_t, m_s).log().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gamma_m, names", [(0, ["F_MM", "F_C"]), (1, ["F_E"])])
def test_training_brings_the_global_structures_together(
    gamma_m, names, trained, tiny_without_dropout, tmp_path
):
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--beta",
            10,
            "--gamma_m",
            gamma_m,
            "--num_train_epochs",
            15,
            "--student_memory_learning_rate",
            0.02,
            "--teacher_memory_path",
            trained,
        )
    )
    log = read_log(tmp_path / "s")
    for name in names:
        assert sum(e[name] for e in log[-5:]) < 0.8 * sum(e[name] for e in log[:5]), name


@pytest.mark.parametrize("gamma_m, absent", [(0, "F_E"), (1, "F_C")])
def test_gamma_m_at_its_ends_skips_a_term(
    gamma_m, absent, trained, tiny_without_dropout, tmp_path, monkeypatch
):
    found, real = [], cka.global_losses
    monkeypatch.setattr(cka, "global_losses", lambda *args: found.append(real(*args)) or found[-1])
    memory = ["--teacher_memory_path", trained]
    words = flags(tiny_without_dropout, tmp_path / "s", "--gamma_m", gamma_m, *memory)
    glue_with_cka_g.main(words)
    assert {"F_MM", "F_E", "F_C"} - set(read_log(tmp_path / "s")[0]) == {absent}
    assert len(found) == 6 and all(absent not in parts for parts in found)  # steps


def test_the_matrix_products_of_f_e_and_f_c_are_shared(
    trained, tiny_without_dropout, tmp_path, monkeypatch
):
    calls, real = [], cka.memory_relations
    monkeypatch.setattr(cka, "memory_relations", lambda *args: calls.append(1) or real(*args))
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--gamma_m",
            0.5,
            "--teacher_memory_path",
            trained,
            "--max_steps",
            2,
        )
    )
    assert len(calls) == 2 * 2  # student and teacher, two steps


# ---- the two memories ----------------------------------------------------------------------------


@pytest.mark.slow
def test_resumed_with_the_students_memory_is_bit_identical(tiny, trained, tmp_path):
    train_memory.main(memory_flags(tiny, tmp_path / "m"))
    more = [
        "--teacher_memory_path",
        tmp_path / "m",
        "--gamma_m",
        0.1,
        "--student_memory_learning_rate",
        0.01,
    ]
    glue_with_cka_g.main(flags(tiny, tmp_path / "straight", *more))
    stopped_at(tiny, tmp_path / "s", *more, "--save_steps", 3, main=glue_with_cka_g.main)
    train_memory.main(memory_flags(tiny, tmp_path / "other", "--seed", 9))
    with pytest.raises(UserError, match="teacher memory was"):
        glue_with_cka_g.main(
            flags(tiny, tmp_path / "s", *more, "--teacher_memory_path", tmp_path / "other")
        )
    (tmp_path / "m").rename(tmp_path / "moved")
    glue_with_cka_g.main(
        flags(tiny, tmp_path / "s", *more, "--teacher_memory_path", tmp_path / "moved")
    )
    names = ("model.safetensors", "student_memory.safetensors", "dev_predictions.tsv")
    assert_same_files(tmp_path / "straight", tmp_path / "s", *names)


def test_a_memory_of_some_rows_is_told(tiny_without_dropout, tmp_path, capsys):
    some = ["--max_train_samples", 8]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", *some))
    more = ["--teacher_memory_path", tmp_path / "m", "--max_steps", 1]
    for rows, told in (([], True), (some, False)):
        glue_with_cka_g.main(flags(tiny_without_dropout, tmp_path / f"{told}", *more, *rows))
        said = "is made from 8 rows, this run has 21" in capsys.readouterr().err
        assert said is told


def test_the_students_memory_has_a_rate_of_its_own(trained, tiny_without_dropout, tmp_path):
    start = memory.Memories(
        load_file(trained / memory_file.FILE)["centroids"], 16, 24, 42
    ).student.detach()
    moved = {}
    for rate in (0.0, 1e-3, 1e-2):
        output = tmp_path / str(rate)
        glue_with_cka_g.main(
            flags(
                tiny_without_dropout,
                output,
                "--teacher_memory_path",
                trained,
                "--max_steps",
                1,
                "--student_memory_learning_rate",
                rate,
            )
        )
        found = load_file(output / "student_memory.safetensors")["centroids"]
        moved[rate] = (found - start).abs().max().item()
    assert moved == pytest.approx(
        {0.0: 0, 1e-3: 1e-3, 1e-2: 1e-2}, rel=0.02
    )  # Adam's first step is the rate


def test_masked_padding_is_the_unpadded_computation(tiny_without_dropout, tmp_path):
    """The teacher's side of G is the same at 24 and 48 columns; so is the student's, whose memory
    starts alike.
    """
    first = []
    for length in (24, 48):
        folder = tmp_path / str(length)
        masked = ["--mask_padding", "--max_seq_length", length]
        train_memory.main(memory_flags(tiny_without_dropout, folder / "m", *masked))
        relations, real = [], cka.memory_relations

        def spy(h, m, relations=relations, real=real):
            relations.append(real(h, m))
            return relations[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cka, "memory_relations", spy)
            glue_with_cka_g.main(
                flags(
                    tiny_without_dropout,
                    folder / "s",
                    *masked,
                    "--teacher_memory_path",
                    folder / "m",
                    "--max_steps",
                    1,
                )
            )
        first.append(relations[0])
    for psi in ("euclidean", "cosine"):
        torch.testing.assert_close(first[0][psi], first[1][psi], rtol=1e-4, atol=1e-4)


def test_columns_that_were_left_out_come_back_in_their_places():
    """As where padding is on the left, or in between."""
    h = torch.arange(1.0, 13).view(2, 3, 2)
    targets = {
        "mask": torch.tensor([[1, 1, 1], [0, 1, 1]]).bool(),
        "columns": torch.tensor([1, 3, 4]),
    }
    rows = flat(h, targets | {"length": 6}).view(2, 6, 2)
    assert rows[0].tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [5, 6], [0, 0]]
    assert rows[1].tolist() == [[0, 0], [0, 0], [0, 0], [9, 10], [11, 12], [0, 0]]
    assert torch.equal(flat(h, {}), h.flatten(1))


def test_a_memory_of_another_run_is_refused(trained, tiny, tiny_without_dropout, tmp_path):
    """Teacher, length, task and padding must be the memory's; the sentence says which differ."""

    def sentence(folder, *more):
        arguments = flags(folder, tmp_path / "s", "--teacher_memory_path", trained, *more)
        with pytest.raises(UserError) as error:
            glue_with_cka_g.main(arguments)
        return str(error.value)

    save_models(tmp_path / "other", seed=5)
    found = sentence(tiny_without_dropout, "--model_name_or_path", tmp_path / "other/teacher")
    assert "its teacher is" in found and "max seq length" not in found
    found = sentence(tiny_without_dropout, "--max_seq_length", 16)
    assert "its max seq length is 24 there and 16 here" in found and "its teacher" not in found
    assert "its mask padding is False there and True here" in sentence(
        tiny_without_dropout, "--mask_padding"
    )
    found = sentence(tiny_without_dropout, "--teacher_memory_path", tmp_path)
    assert "there is no memory" in found and "train_memory.py" in found
    (tmp_path / "WNLI").mkdir()
    for split in ("train", "dev"):
        (tmp_path / f"WNLI/{split}.tsv").write_text(
            "index\tsentence1\tsentence2\tlabel\n0\tthe dog\tthe cat\t1\n"
        )
    teacher = tmp_path / "wnli"
    transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_without_dropout / "teacher", id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}
    ).save_pretrained(teacher)
    transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher").save_pretrained(
        teacher
    )
    wnli = ["--task_name", "wnli", "--data_dir", tmp_path, "--model_name_or_path", teacher]
    found = sentence(tiny_without_dropout, *wnli)
    assert "its task is RTE there and WNLI here" in found and "its teacher" not in found
