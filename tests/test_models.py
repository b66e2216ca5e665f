"""Families of encoders, and what is refused: each mistake gets one sentence that names it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from conftest import change_json, flags, read_log, shell, two_processes, write_task
from families import FAMILIES, byte_level, save_family

import common
import glue_with_cka_i
import train_teacher
from training import flags as flag_module
from training.reading import leaves_weights_out


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_and_is_saved_whole(family, tmp_path):
    folder = save_family(tmp_path, family)
    write_task(folder)
    more = ["--model_type", family, "--max_seq_length", 40, "--num_train_epochs", 1]
    train_teacher.main(flags(folder, tmp_path / "t", *more, teacher=True))
    for name, loss in (("i", ["--internal"]), ("l", [])):
        glue_with_cka_i.main(
            [
                *flags(folder, tmp_path / name, *more, *loss),
                "--model_name_or_path",
                str(tmp_path / "t"),
            ]
        )
        assert len(read_log(tmp_path / name)) == 3
        student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        assert student.config.num_hidden_layers == 2 and student.config.model_type == family


@pytest.mark.slow
def test_two_processes_with_a_parameter_that_nothing_uses(tmp_path):
    """XLNet's mask embedding gets no gradient, for which DistributedDataParallel would wait in
    vain.
    """
    folder = save_family(tmp_path, "xlnet")
    write_task(folder)
    two_processes("glue_with_cka_i.py", flags(folder, tmp_path / "s"))
    assert len(read_log(tmp_path / "s")) == 4


@pytest.mark.parametrize("family, found", [("roberta", False), ("xlnet", True)])
def test_weights_that_nothing_uses_are_found(family, found, tmp_path):
    folder = save_family(tmp_path, family)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
    ones = torch.ones(2, 8, dtype=torch.long)
    features = {"input_ids": 5 * ones, "attention_mask": ones, "token_type_ids": 0 * ones}
    model.train()
    assert leaves_weights_out(model, features) == found
    assert model.training and all(weight.grad is None for weight in model.parameters())
    model.config.layerdrop = 0.1
    assert leaves_weights_out(model, features)


def test_lower_case_is_kept_with_the_student(tmp_path):
    folder = save_family(tmp_path, "roberta")
    write_task(folder)
    glue_with_cka_i.main(
        flags(folder, tmp_path / "s", "--do_lower_case", "--max_seq_length", 40, "--max_steps", 1)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    assert tokenizer("The DOG")["input_ids"] == tokenizer("the dog")["input_ids"]
    assert transformers.AutoTokenizer.from_pretrained(folder / "teacher").tokenize(
        "DOG"
    ) != tokenizer.tokenize("dog")


def other_tokenizer(tiny, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    byte_level(folder).save_pretrained(folder)
    return ["--tokenizer_name", folder]


def broken_rows(tiny, tmp_path):
    folder = write_task(tmp_path / "data")
    lines = (folder / "RTE/train.tsv").read_text().split("\n")
    (folder / "RTE/train.tsv").write_text("\n".join([*lines[:3], "7\tonly two", *lines[3:]]))
    return ["--data_dir", folder]


def unknown_label(tiny, tmp_path):
    folder = write_task(tmp_path / "data")
    text = (folder / "RTE/dev.tsv").read_text().replace("not_entailment", "maybe", 1)
    (folder / "RTE/dev.tsv").write_text(text)
    return ["--data_dir", folder]


def three_labels(tiny, tmp_path):
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "pretrained", num_labels=3
    )
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    teacher.save_pretrained(tmp_path / "teacher")
    return ["--model_name_or_path", tmp_path / "teacher"]


def another_width(tiny, tmp_path):
    shutil.copytree(tiny / "pretrained", tmp_path / "pretrained")
    change_json(tmp_path / "pretrained/config.json", hidden_size=8)
    return ["--model_name_or_path_for_copy", tmp_path / "pretrained"]


def another_vocabulary(tiny, tmp_path):
    shutil.copytree(tiny / "pretrained", tmp_path / "pretrained")
    path = tmp_path / "pretrained/tokenizer.json"
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    return ["--model_name_or_path_for_copy", tmp_path / "pretrained"]


def damaged_weights(tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher/model.safetensors").write_bytes(b"half a file")
    return ["--model_name_or_path", tmp_path / "teacher"]


MISTAKES = {
    "missing data": (lambda *_: ["--data_dir", "nowhere"], "train.tsv"),
    "malformed row": (broken_rows, r"Expected 4 columns, found 2 in .*train.tsv, line 4"),
    "unknown label": (unknown_label, "found 'maybe' in .*dev.tsv, line"),
    "unknown task": (lambda *_: ["--task_name", "SQuAD"], "cola"),
    "teacher with 3 labels": (three_labels, "has 3 labels, but RTE has 2"),
    "teacher that is not fine-tuned": (
        lambda tiny, _: ["--model_name_or_path", tiny / "pretrained"],
        "not fine-tuned",
    ),
    "teacher that is nowhere": (
        lambda *_: ["--model_name_or_path", "no/such/folder"],
        "does not exist",
    ),
    "damaged teacher": (damaged_weights, "cannot load the teacher"),
    "another model's tokenizer": (other_tokenizer, "differ in 294 tokens"),
    "a source with another vocabulary": (
        lambda *places: [*another_vocabulary(*places), "--internal"],
        "compares the two models at the same tokens",
    ),
    "too many layers": (lambda *_: ["--student_num_hidden_layers", "5"], "which has 4"),
    "weights of another width": (another_width, "lacks"),
    "wrong model type": (lambda *_: ["--model_type", "roberta"], "is of type bert"),
    "wrong student type": (lambda *_: ["--student_model_type", "roberta"], "must be of one family"),
    "too long": (lambda *_: ["--max_seq_length", "128"], "takes at most 64 tokens"),
    "alpha": (lambda *_: ["--alpha", "1.5"], "--alpha must be between 0 and 1, got 1.5"),
    "temperature": (lambda *_: ["--temperature", "0"], "--temperature must be above 0"),
    "batch size": (lambda *_: ["--per_gpu_train_batch_size", "0"], "must be at least 1, got 0"),
    "fp16 on a CPU": (lambda *_: ["--fp16"], "needs a GPU"),
    "layers that do not divide": (
        lambda *_: ["--do_layerwise", "--student_num_hidden_layers", "3"],
        "divides",
    ),
    "seed": (lambda *_: ["--seed", "5000000000"], "--seed must be between"),
    "table is a folder": (
        lambda tiny, _: ["--results_csv", tiny / "RTE"],
        "is a folder: name a file",
    ),
    "table is none": (
        lambda tiny, _: ["--results_csv", tiny / "teacher/tokenizer.json"],
        "is not a table of results",
    ),
    "output is a file": (
        lambda tiny, _: ["--output_dir", tiny / "RTE/dev.tsv"],
        "cannot be made a folder",
    ),
    "board is a file": (
        lambda tiny, _: ["--run_file", tiny / "RTE/dev.tsv"],
        "--run_file .* cannot be used",
    ),
    "cache is below a file": (
        lambda tiny, _: ["--cache_dir", tiny / "RTE/dev.tsv/x"],
        "--cache_dir .* cannot be used",
    ),
    "output is the teacher": (
        lambda tiny, _: ["--output_dir", tiny / "teacher"],
        "which it would overwrite",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, tiny, tmp_path, capsys):
    change, said = MISTAKES[mistake]
    arguments = [*flags(tiny, tmp_path / "s"), *(str(a) for a in change(tiny, tmp_path))]
    assert common.cli(glue_with_cka_i.main, arguments) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert re.search(said, lines[0]), lines[0]
    assert not (tmp_path / "s/model.safetensors").exists()


def test_names_in_capitals_in_the_right_order_are_fine(tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    change_json(
        tmp_path / "teacher/config.json", id2label={"0": "ENTAILMENT", "1": "NOT_ENTAILMENT"}
    )
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1)
    )


@pytest.mark.parametrize(
    "more, said",
    [
        (["--task_name", "mnli"], "has 2 labels, but MNLI has 3"),
        (["--max_seq_length", "65"], "takes at most 64"),
        (["--output_dir", "no/such/run"], "there is no trained model in no/such/run"),
    ],
)
def test_evaluation_alone_checks_the_model_too(more, said, tiny, capsys):
    arguments = [*flags(tiny, tiny / "teacher", *more, "--data_dir", tiny)]
    arguments = [flag for flag in arguments if flag != "--do_train"]
    assert common.cli(glue_with_cka_i.main, arguments) == 1
    assert said in capsys.readouterr().err and not Path("no").exists()


def test_a_foreign_model_in_the_output_folder_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "pretrained", tmp_path / "s")
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s")) == 1
    assert "no run of this project wrote" in capsys.readouterr().err


@pytest.mark.slow
def test_from_the_shell_there_is_no_traceback(tiny, tmp_path):
    for arguments, code, said in (
        (flags(tiny, tmp_path / "s", "--data_dir", "nowhere"), 1, "nowhere"),
        (["--alpha", "much"], 2, "error: argument --alpha"),
        (["--task_name", "RTE"], 2, "required: "),
    ):
        done = shell("glue_with_cka_i.py", *arguments)
        assert done.returncode == code
        assert done.stderr.count("\n") == 1 and said in done.stderr and done.stdout == ""


INTERFACE = """--model_type bert --model_name_or_path {teacher}
  --model_name_or_path_for_copy {pretrained} --data_dir {data}
  --per_gpu_train_batch_size 32 --max_seq_length 64 --output_dir {output}
  --student_model_type bert --student_model_name_or_path {output}
  --do_eval --do_train --run_file {board} --copy_teacher
  --alpha 0.5 --beta 3 --temperature 5
  --num_train_epochs 1 --learning_rate 5e-5 --task_name rte --do_lower_case"""


@pytest.mark.slow
@pytest.mark.parametrize("internal", ["", " --internal"])
def test_the_command_of_the_interface_runs_literally(internal, tiny, tmp_path):
    command = (INTERFACE + internal).format(
        teacher=tiny / "teacher",
        pretrained=tiny / "pretrained",
        data=tiny / "RTE",
        output=tmp_path / "s",
        board=tmp_path / "board",
    )
    done = shell("glue_with_cka_i.py", *command.split())
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "board").glob("events.*"))
    assert "acc" in json.loads((tmp_path / "s/eval_results.json").read_text())


def test_old_and_new_spellings_with_their_defaults():
    parser = flag_module.make_parser("", flag_module.STUDENT, flag_module.LOSS)
    required = [
        "--model_name_or_path",
        "m",
        "--data_dir",
        "d",
        "--output_dir",
        "o",
        "--task_name",
        "MRPC",
    ]
    args = parser.parse_args(
        [*required, "--task_name", "wnli", "--per_device_train_batch_size", "4"]
    )
    assert args.task_name == "wnli" and args.per_gpu_train_batch_size == 4
    defaults = {
        "config_name": "",
        "tokenizer_name": "",
        "cache_dir": "",
        "per_gpu_eval_batch_size": 8,
        "max_steps": -1,
        "gradient_accumulation_steps": 1,
        "weight_decay": 0.0,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "warmup_steps": 0,
        "logging_steps": 500,
        "save_steps": 500,
        "seed": 42,
        "alpha": 0.5,
        "temperature": 5.0,
        "max_seq_length": 128,
    }
    assert {key: getattr(args, key) for key in defaults} == defaults
