"""A student that reads rows with a tokenizer, or at a length, of its own: what compares samples
works as ever, what compares tokens is refused.
"""

import json

import pytest
import transformers
from conftest import (
    assert_same_training,
    flags,
    log_without_speed,
    memory_flags,
    read_log,
    refusal,
    same_weights,
    save_models,
    two_processes,
    write_task,
)
from families import byte_level, permute_vocabulary
from runs_of_two_tokenizers import METHODS, OF_TOKENS

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory


@pytest.fixture(scope="session")
def permuted(tiny, tmp_path_factory):
    """The tiny teacher with another vocabulary."""
    return permute_vocabulary(tiny / "teacher", tmp_path_factory.mktemp("permuted") / "teacher")


def run(script, tiny, teacher, output, *more):
    """A short distillation of this teacher; the student's words are those of tiny/pretrained."""
    assert script.main(flags(tiny, output, *more, "--model_name_or_path", teacher)) == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_with_its_words_in_another_order_teaches_the_same(
    method, cached, permuted, tiny, tmp_path
):
    """To the last bit, though no token of the one has the number that it has in the other."""
    script, own = METHODS[method]
    more = [*own, *(["--teacher_cache", tmp_path / "cache"] if cached else [])]
    one = run(script, tiny, tiny / "teacher", tmp_path / "one", *more)
    other = run(script, tiny, permuted, tmp_path / "other", *more)
    assert same_weights(one, other)
    for left, right in zip(read_log(one), read_log(other), strict=True):
        assert left["total"] == right["total"]
        assert left["rd_inter_cosine"] == right["rd_inter_cosine"]
        assert "rd_intra_cosine" in left and "rd_intra_cosine" not in right
    words = transformers.AutoTokenizer.from_pretrained(other).get_vocab()
    assert words == transformers.AutoTokenizer.from_pretrained(tiny / "pretrained").get_vocab()


@pytest.mark.parametrize("more", [[], ["--mask_padding"]])
def test_so_does_its_memory(more, permuted, tiny, tmp_path):
    """G and L together; the student's memory as well is the same."""
    found = []
    for name, teacher in (("one", tiny / "teacher"), ("other", permuted)):
        memory = tmp_path / f"memory-{name}"
        train_memory.main(memory_flags(tiny, memory, *more, "--model_name_or_path", teacher))
        own = ["--gamma_i", 0, "--teacher_memory_path", memory, *more]
        found.append(run(glue_with_cka_ilg, tiny, teacher, tmp_path / name, *own))
    assert_same_training(*found)  # on some CPUs a product's bits depend on where its numbers lie


@pytest.mark.parametrize("method", OF_TOKENS)
def test_what_compares_tokens_is_refused(method, permuted, tiny, tmp_path, capsys):
    script, own, term = OF_TOKENS[method]
    more = [*own, "--model_name_or_path", permuted]
    said = refusal(capsys, flags(tiny, tmp_path / "s", *more), script.main)
    assert f"the loss term {term} compares the two models at the same tokens" in said
    assert "two tokenizers" in said
    assert not (tmp_path / "s/model.safetensors").exists()


@pytest.mark.parametrize("more", [[], ["--mask_padding"]])
def test_a_student_of_another_length(more, tiny, tmp_path, capsys):
    """Of the teacher's tokenizer, so that it can be evaluated and resumed at its own."""
    own = ["--student_max_seq_length", 14, *more]
    memory = tmp_path / "memory"
    train_memory.main(memory_flags(tiny, memory, *more))
    given = [*own, "--teacher_memory_path", memory]
    whole = run(glue_with_cka_g, tiny, tiny / "teacher", tmp_path / "whole", *given)
    words = [*given, "--save_steps", 2, "--max_steps", 2]
    run(glue_with_cka_g, tiny, tiny / "teacher", tmp_path / "short", *words)
    assert json.loads((whole / "run.json").read_text())["settings"]["student_max_seq_length"] == 14
    assert '"max_length": 14}' in (whole / "README.md").read_text()
    said = refusal(capsys, flags(tiny, tmp_path / "i", *own, "--internal"))
    assert "or at two lengths" in said


def test_a_teacher_of_another_family_teaches_and_the_run_resumes(tmp_path):
    """A RoBERTa of bytes and a BERT of words; where it was cut off, it goes on to the same bits."""
    theirs = save_models(tmp_path / "roberta", "roberta", byte_level(tmp_path), type_vocab_size=1)
    ours = save_models(tmp_path / "bert")
    write_task(ours)
    teacher = theirs / "teacher"
    more = ["--max_seq_length", 60, "--student_max_seq_length", 24, "--student_model_type", "bert"]
    more += ["--teacher_cache", tmp_path / "cache", "--model_type", "roberta"]
    whole = run(glue_with_cka_i, ours, teacher, tmp_path / "whole", *more)
    config = json.loads((whole / "config.json").read_text())
    assert config["model_type"] == "bert" and config["num_hidden_layers"] == 2

    class Stop(Exception):
        pass

    def stop(loop_class):
        class Stopped(loop_class):
            def take_step(self, batches):
                if self.state.step == 4:
                    raise Stop
                return super().take_step(batches)

        return Stopped

    from loop import Loop

    words = flags(ours, tmp_path / "cut", *more, "--save_steps", 2, "--model_name_or_path", teacher)
    with pytest.raises(Stop):
        glue_with_cka_i.main(words, stop(Loop))
    assert glue_with_cka_i.main(words) == 0
    assert same_weights(whole, tmp_path / "cut")
    assert log_without_speed(whole) == log_without_speed(tmp_path / "cut")


@pytest.mark.slow
def test_two_processes_are_as_one(permuted, tiny_without_dropout, tmp_path):
    tiny = tiny_without_dropout
    teacher = permute_vocabulary(tiny / "teacher", tmp_path / "teacher")
    more = ["--student_max_seq_length", 18, "--model_name_or_path", teacher]
    glue_with_cka_i.main(flags(tiny, tmp_path / "one", *more))
    half = [*more, "--per_gpu_train_batch_size", 4]
    two_processes("glue_with_cka_i.py", flags(tiny, tmp_path / "two", *half))
    for one, two in zip(*(read_log(tmp_path / name) for name in ("one", "two")), strict=True):
        assert one["total"] == pytest.approx(two["total"], rel=1e-4)


def test_a_resumed_run_reads_with_the_same_tokenizer(permuted, tiny, tmp_path):
    """Another student's words are another run."""
    words = ["--save_steps", 2, "--max_steps", 3]
    run(glue_with_cka_i, tiny, permuted, tmp_path / "s", *words)
    settings = json.loads((tmp_path / "s/run.json").read_text())["settings"]
    assert len(settings["student's tokenizer"]) == 64 != settings["tokenizer"]


def test_a_student_of_another_family_with_own_rows_is_evaluated_alone(tmp_path):
    """Its folder's family is its own, and --model_type the teacher's."""
    theirs = save_models(tmp_path / "roberta", "roberta", byte_level(tmp_path), type_vocab_size=1)
    ours = save_models(tmp_path / "bert")
    rows = "text,label\n" + "a dog runs,entailment\nno cat,not_entailment\n" * 5
    (tmp_path / "rows.csv").write_text(rows)
    words = flags(
        ours, tmp_path / "s", "--max_steps", 1, "--model_name_or_path", theirs / "teacher"
    )
    place = words.index("--data_dir")
    words[place : place + 2] = ["--train_file", str(tmp_path / "rows.csv")]
    words += ["--validation_file", str(tmp_path / "rows.csv"), "--task_name", "mine"]
    words += ["--model_type", "roberta"]
    assert glue_with_cka_i.main(words) == 0
    (tmp_path / "s/eval_results.json").unlink()
    assert glue_with_cka_i.main([word for word in words if word != "--do_train"]) == 0
    assert "f1_macro" in json.loads((tmp_path / "s/eval_results.json").read_text())
