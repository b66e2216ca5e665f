"""Folders and configs out of the ordinary: they train, or are refused before the first step."""

import shutil

import pytest
import transformers
from conftest import change_json, flags, refusal, same_weights, save_models, write_task
from families import byte_level, save_family, shape_of

import glue_with_cka_i
import train_teacher

# ---- what trains ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"output_attentions": True}, {"output_hidden_states": True}, {"return_dict": False}]
)
def test_a_config_that_asks_for_other_outputs_trains(changes, tiny, tmp_path):
    for name in ("teacher", "pretrained"):
        shutil.copytree(tiny / name, tmp_path / name)
        change_json(tmp_path / name / "config.json", **changes)
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--internal", "--max_steps", 1))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--internal", "--max_steps", 1))
    assert same_weights(tmp_path / "s", tmp_path / "plain")


def test_modernbert_with_fewer_layers(tmp_path):
    """Its lists with one entry a layer are cut with the layers: the student's, and the teacher's
    for the cache.
    """
    folder = save_family(tmp_path, "modernbert")
    write_task(folder)
    more = ["--max_seq_length", 40, "--num_train_epochs", 1]
    train_teacher.main(flags(folder, tmp_path / "t", *more, teacher=True))
    glue_with_cka_i.main(
        flags(
            folder,
            tmp_path / "s",
            "--internal",
            "--model_name_or_path",
            tmp_path / "t",
            *more,
            "--teacher_cache",
            tmp_path / "cache",
            "--alpha",
            1,
        )
    )
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert student.config.layer_types == ["full_attention", "sliding_attention"]
    assert student.config.num_hidden_layers == 2


def test_positions_of_roberta_are_two_fewer(tmp_path, capsys):
    tokenizer = byte_level(tmp_path)
    tokenizer.model_max_length = 10**6  # as of a tokenizer that does not know
    # 64 positions in its config
    folder = save_models(tmp_path, "roberta", tokenizer, **shape_of("roberta"))
    write_task(folder)
    said = refusal(capsys, flags(folder, tmp_path / "s", "--max_seq_length", 63))
    assert "takes at most 62 tokens" in said
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--max_seq_length", 62, "--max_steps", 1))


# ---- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_saved_is_refused_before_the_first_step(tiny, tmp_path, capsys, monkeypatch):
    def broken(self, *args, **kwargs):
        raise ValueError("this configuration cannot be written")

    monkeypatch.setattr(transformers.BertConfig, "save_pretrained", broken)
    said = refusal(capsys, flags(tiny, tmp_path / "s"))
    assert "could not be saved after its training" in said and "cannot be written" in said
    assert not (tmp_path / "s/train_log.jsonl").exists()
    assert not list((tmp_path / "s").glob(".*tmp*"))


@pytest.mark.slow
def test_a_family_without_one_hidden_state_for_each_token(tmp_path, capsys):
    shape = {"num_hash_buckets": 64, "num_hash_functions": 2, "local_transformer_stride": 16}
    folder = save_models(
        tmp_path, "canine", transformers.CanineTokenizer(model_max_length=64), **shape
    )
    write_task(folder)
    said = refusal(capsys, flags(folder, tmp_path / "s", "--max_seq_length", 40))
    assert "has hidden states of" in said and "token by token" in said


@pytest.mark.parametrize("layers", [-1, 0])
def test_a_model_without_layers_is_refused(layers, tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    change_json(tmp_path / "teacher/config.json", num_hidden_layers=layers)
    assert f"num_hidden_layers {layers}" in refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )


def test_a_teacher_cut_short_by_its_config_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    change_json(tmp_path / "teacher/config.json", num_hidden_layers=3)
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "weights of 4 layers, but its config.json says 3" in said


def test_no_code_beside_a_model_is_run(tiny, tmp_path, capsys, monkeypatch):
    """Nor asked for: transformers would ask on stdin."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher/evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n"
    )
    change_json(
        tmp_path / "teacher/config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"}
    )
    monkeypatch.setattr("builtins.input", lambda *asked: "y")
    assert "cannot load" in refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert not (tmp_path / "ran").exists()


def test_a_mistyped_folder_is_no_network_fault(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tiny)
    said = refusal(capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tiny / "techer"))
    assert "does not exist" in said and "has teacher" in said
    (tmp_path / "runs/teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", "runs/teachr"))
    assert "does not exist; runs has teacher" in said
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tiny / "teacher/config.json")
    )
    assert "is a file" in said
