"""train_memory.py's flags, mistakes in them, and what it refuses to overwrite."""

import pytest
import torch
import transformers
from conftest import flags, memory_flags, shell
from stopped_runs import stopped_at

import choices
import common
import glue_with_cka_g
import glue_with_cka_i
import train_memory
from common import UserError
from training import memory_file


@pytest.mark.slow
def test_a_memory_and_a_student_do_not_share_a_folder(tiny, tmp_path):
    """Neither overwrites the other unasked; a memory never overwrites the one that it was made
    from.
    """
    stopped_at(tiny, tmp_path / "s")
    with pytest.raises(UserError, match="a run of the method FSD_L, and this run is of memory"):
        train_memory.main(memory_flags(tiny, tmp_path / "s"))
    assert (tmp_path / "s/checkpoint-2").exists()
    train_memory.main(memory_flags(tiny, tmp_path / "s", "--overwrite_output_dir"))
    assert not (tmp_path / "s/checkpoint-2").exists()
    with pytest.raises(UserError, match="a run of the method memory, and this run is of FSD_L"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    for path in (tmp_path / "s", tmp_path / "s" / memory_file.FILE):
        with pytest.raises(
            UserError, match="is also --teacher_memory_path, which it would overwrite"
        ):
            glue_with_cka_g.main(
                flags(tiny, tmp_path / "s", "--overwrite_output_dir", "--teacher_memory_path", path)
            )
    assert (tmp_path / "s" / memory_file.FILE).exists()


@pytest.mark.parametrize("init", choices.MEMORY_INITS)
def test_a_broken_teacher_gets_one_sentence(init, tiny, tmp_path):
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher")
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[7] = torch.nan
    teacher.save_pretrained(tmp_path / "t")
    transformers.AutoTokenizer.from_pretrained(tiny / "teacher").save_pretrained(tmp_path / "t")
    with pytest.raises(UserError, match="features are not finite numbers"):
        train_memory.main(
            memory_flags(
                tiny, tmp_path / "m", "--model_name_or_path", tmp_path / "t", "--memory_init", init
            )
        )


def test_a_full_disk_leaves_no_broken_memory(tiny, tmp_path, monkeypatch, capsys):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_file, "save_file", full)
    assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "m")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "m").glob("*.safetensors")) and not list(
        (tmp_path / "m").glob(".mem*")
    )


# ---- flags ---------------------------------------------------------------------------------------


def test_the_number_of_centroids_is_the_tasks():
    for name, number in (("MNLI", 300), ("qqp", 300), ("wnli", 100), ("SST-2", 100), ("sst2", 100)):
        arguments = "--model_name_or_path t --data_dir d --output_dir o".split()
        arguments += ["--memory_learning_rate", "--task_name"]
        args, _ = train_memory.parse([*arguments, name])
        assert (args.num_centroid, args.memory_num_train_epochs, args.memory_learning_rate) == (
            number,
            3,
            1.0,
        )


MISTAKES = {
    "centroids": (
        ["--num_centroid", 22],
        "--num_centroid is 22, but there are 21 training samples",
    ),
    "no centroid": (["--num_centroid", 0], "--num_centroid must be at least 1, got 0"),
    "rate": (["--memory_learning_rate", 0], "must be above 0"),
    "large rate": (["--memory_learning_rate", 2], "must be between 0 and 1, got 2"),
    "passes": (["--memory_num_train_epochs", 0], "--memory_num_train_epochs must be at least 1"),
    "init": (["--memory_init", "zeros"], "kmeans++"),
    "resume": (["--resume_from_checkpoint"], "there is no unfinished clustering"),
    "endless": (["--num_train_epochs", "inf"], "--num_train_epochs must be at least 0, got inf"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence(name, tiny, tmp_path):
    more, sentence = MISTAKES[name]
    done = shell("train_memory.py", *memory_flags(tiny, tmp_path / "m", *more))
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "m" / memory_file.FILE).exists()


@pytest.mark.slow
def test_flags_without_a_use_are_said(tiny, tmp_path):
    done = shell(
        "train_memory.py", *memory_flags(tiny, tmp_path / "m", "--do_eval", "--learning_rate", 1e-3)
    )
    assert done.returncode == 0 and "no use for --do_eval, --learning_rate" in done.stderr
    arguments = [flag for flag in memory_flags(tiny, tmp_path / "n") if flag != "--do_train"]
    assert "pass --do_train" in shell("train_memory.py", *arguments).stderr


USED = {
    "model_type",
    "model_name_or_path",
    "config_name",
    "tokenizer_name",
    "cache_dir",
    "data_dir",
    "task_name",
    "output_dir",
    "do_train",
    "do_lower_case",
    "max_seq_length",
    "max_train_samples",
    "overwrite_cache",
    "overwrite_output_dir",
    "per_gpu_train_batch_size",
    "per_gpu_memory_train_batch_size",
    "num_train_epochs",
    "memory_num_train_epochs",
    "num_centroid",
    "memory_learning_rate",
    "memory_init",
    "teacher_cache",
    "mask_padding",
    "train_file",
    "validation_file",
    "test_file",
    "text_column_names",
    "label_column_name",
    "do_regression",
    "seed",
    "logging_steps",
    "save_steps",
    "run_file",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "no_cuda",
    "fp16",
    "bf16",
}


def test_every_flag_is_used_or_said_to_have_no_use():
    """A flag that training gets later is one of the two here, too."""
    args, _ = train_memory.parse(
        ["--model_name_or_path", "m", "--data_dir", "d", "--task_name", "rte", "--output_dir", "o"]
    )
    old = {"local_rank", "server_ip", "server_port", "fp16_opt_level"}
    assert set(vars(args)) - old == USED | set(train_memory.NO_USE)
    given = [
        "--model_name_or_path",
        "m",
        "--data_dir",
        "d",
        "--task_name",
        "rte",
        "--output_dir",
        "o",
    ]
    assert train_memory.parse([*given, "--warmup_ratio", "0.1"])[1] == ["warmup_ratio"]
