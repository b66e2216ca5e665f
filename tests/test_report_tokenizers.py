"""A report on students that read the rows with a tokenizer, or at a length, of their own: samples
are compared as ever, tokens are not.
"""

import json
import shutil

import pandas as pd
import pytest
import torch
import transformers
from conftest import flags, memory_flags, save_models, write_task
from families import byte_level, permute_vocabulary
from reports import read, report_flags

import cka
import glue_with_cka_g
import relations
import train_memory
from analysis import report
from analysis.report_measures import RELATIONS
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from training.memory_file import load_memory

pytestmark = pytest.mark.slow
INTER, INTRA = RELATIONS[:2], RELATIONS[2:]
PLACES = ["occupied", "same", "rand"]  # among the teacher's centroids
OWN = ["own_occupied", "own_same", "own_rand", "memory_biased", "memory_debiased"]


def by_name(folder, table, name):
    """A model's rows of a table, without its name and folder."""
    found = read(folder, table).query("name == @name").reset_index(drop=True)
    return found.drop(columns=["name", "run", "folder", "seed"], errors="ignore")


def alone_notes(folder):
    """The notes on students that read in their own way."""
    notes = json.loads((folder / "report.json").read_text())["notes"]
    return [note for note in notes if note.startswith("These read the rows")]


# ---- words in another order ----------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--mask_padding"]])
def test_a_student_with_its_words_in_another_order_beside_itself(
    more, tiny, report_runs, tmp_path, capsys
):
    """In one report with the student whose words they are: between samples the same numbers."""
    plain, output = report_runs / "fsd_i", tmp_path / "r"
    permuted = permute_vocabulary(plain, tmp_path / "permuted")
    if not more:
        more = ["--teacher_memory_path", report_runs / "memory"]
    report.main(report_flags(tiny, output, [f"a={plain}", f"b={permuted}"], *more))
    for table in ("restoration", "classes", "heat_maps", "heat_map_pixels"):
        pd.testing.assert_frame_equal(*(by_name(output, table, name) for name in "ab"))
    layers, other = (by_name(output, "layers", name) for name in "ab")
    assert set(layers.between) == {"tokens", "samples"} and set(other.between) == {"samples"}
    of_samples = layers.query("between == 'samples'").reset_index(drop=True)
    pd.testing.assert_frame_equal(of_samples, other)
    one, other = (by_name(output, "relation_differences", name) for name in "ab")
    assert one[INTER].equals(other[INTER])
    assert one[INTRA].notna().all(axis=None) and other[INTRA].isna().all(axis=None)
    if "--mask_padding" not in more:
        one, other = (by_name(output, "global", name) for name in "ab")
        assert one[PLACES].notna().all(axis=None) and other[PLACES].isna().all(axis=None)
        assert list(read(output, "occupancy")) == ["centroid", "teacher", "a"]
    (note,) = alone_notes(output)
    assert "of their own: b (24 tokens a row, a vocabulary of 34)." in note
    assert note in (output / "tables.md").read_text() and note in capsys.readouterr().err
    assert "not of the teacher's width" not in (output / "tables.md").read_text()


def test_the_others_of_a_report_are_measured_as_without_it(tiny, report_runs, tmp_path):
    plain = report_runs / "fsd_i"
    permuted = permute_vocabulary(plain, tmp_path / "permuted")
    report.main(report_flags(tiny, tmp_path / "alone", [f"a={plain}"]))
    students = [f"b={permuted}", f"a={plain}"]
    report.main(report_flags(tiny, tmp_path / "mixed", students))
    for table in ("restoration", "heat_maps", "layers", "relation_differences"):
        pd.testing.assert_frame_equal(
            *(by_name(tmp_path / r, table, "a") for r in ("alone", "mixed"))
        )
    text = (tmp_path / "mixed/tables.md").read_text()
    assert "ranks among all models here that have all four." in text
    table = text[text.index("| model", text.index("mean rank") - 200) :].split("\n\n")[0]
    ranks = {row.split("|")[1].strip(): row.split("|")[6].strip() for row in table.splitlines()}
    assert (ranks["model"], ranks["a"], ranks["b"]) == ("mean rank", "1.00", "–")


@pytest.fixture(scope="module")
def taught_by_others(tiny, tmp_path_factory):
    """A teacher with its words in another order, its memory, and an FSD_G student of tiny's."""
    folder = tmp_path_factory.mktemp("others")
    teacher = permute_vocabulary(tiny / "teacher", folder / "teacher")
    own = ["--model_name_or_path", teacher]
    train_memory.main(memory_flags(tiny, folder / "memory", *own))
    own += ["--teacher_memory_path", folder / "memory"]
    glue_with_cka_g.main(flags(tiny, folder / "fsd_g", *own))
    return folder


def test_a_trained_student_and_its_memory(tiny, report_runs, taught_by_others, tmp_path):
    """It reads with its folder's tokenizer; the numbers are those of one tokenizer for both."""
    for folder, teacher in ((report_runs, tiny), (taught_by_others, taught_by_others)):
        more = ["--teacher_memory_path", folder / "memory"]
        more += ["--model_name_or_path", teacher / "teacher"]
        report.main(report_flags(tiny, tmp_path / folder.name, [folder / "fsd_g"], *more))
    one, other = (tmp_path / folder.name for folder in (report_runs, taught_by_others))
    for table in ("restoration", "heat_maps"):
        pd.testing.assert_frame_equal(*(by_name(r, table, "FSD_G") for r in (one, other)))
    found, own = (by_name(r, "global", "FSD_G") for r in (one, other))
    assert found[OWN].notna().all(axis=None)
    pd.testing.assert_frame_equal(found[OWN], own[OWN])
    assert own[PLACES].isna().all(axis=None)
    curves, own = (by_name(r, "relation_training", "FSD_G") for r in (one, other))
    pd.testing.assert_frame_equal(curves[["step", *INTER]], own[["step", *INTER]])
    assert len(own) == 6
    assert own[INTRA].isna().all(axis=None)
    assert (one / "layers_tokens.svg").exists() and not (other / "layers_tokens.svg").exists()
    assert len(alone_notes(other)) == 1 and not alone_notes(one)
    assert "No relation differences were logged" not in (other / "report.html").read_text()


# ---- another length, another family --------------------------------------------------------------


def penultimate(folder, data, length):
    """(12, W, D) with padding at 0, by transformers alone: the dev rows' penultimate features."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = load_features(get_task("rte"), data, "dev", tokenizer, length).tensors
    rows = {key: value.long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        h = model(**rows, output_hidden_states=True).hidden_states[-2].double()
    return h * rows["attention_mask"].unsqueeze(-1)


def test_a_length_of_its_own_beside_transformers_alone(tiny, tmp_path):
    """Each side has its own padding, and run.json the length."""
    train_memory.main(memory_flags(tiny, tmp_path / "memory", "--mask_padding"))
    memory = ["--teacher_memory_path", tmp_path / "memory", "--mask_padding"]
    words = flags(tiny, tmp_path / "s", "--student_max_seq_length", 14, *memory)
    glue_with_cka_g.main(words)
    report.main(report_flags(tiny, tmp_path / "r", [f"short={tmp_path / 's'}"], *memory))
    h_s = penultimate(tmp_path / "s", tiny, 14).flatten(1)
    h_t = penultimate(tiny / "teacher", tiny, 24).flatten(1)
    assert (h_s.shape, h_t.shape) == ((12, 14 * 16), (12, 24 * 16))
    batches = torch.arange(12).split(5)[:2]  # of 5; between the last 2 rows nothing is measured
    for estimator in cka.ESTIMATORS:
        found = by_name(tmp_path / "r", "heat_maps", "short")[f"diagonal_{estimator}"].item()
        expected = [cka.linear_cka(h_s[i], h_t[i], None, estimator).item() for i in batches]
        assert found == pytest.approx(sum(expected) / 2, abs=1e-6)
    differences = by_name(tmp_path / "r", "relation_differences", "short").iloc[0]
    for name, psi in zip(INTER, relations.PSI, strict=True):
        expected = [relations.relation_difference(h_s[i], h_t[i], psi).item() for i in batches]
        assert differences[name] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert differences[INTRA].isna().all()
    m_s, m_t = (
        load_memory(tmp_path / name)[0].double()
        for name in ("s/student_memory.safetensors", "memory/memory.safetensors")
    )
    nearest, theirs = torch.cdist(h_s, m_s).argmin(1), torch.cdist(h_t, m_t).argmin(1)
    clusters = by_name(tmp_path / "r", "global", "short").iloc[0]
    assert clusters.own_same == pytest.approx((nearest == theirs).double().mean().item())
    assert clusters.memory_biased == pytest.approx(cka.linear_cka(m_s, m_t).item(), abs=1e-6)
    (note,) = alone_notes(tmp_path / "r")
    assert "short (14 tokens a row, a vocabulary of 34)" in note
    record = json.loads((tmp_path / "r/report.json").read_text())
    assert record["students"][0]["max_seq_length"] == 14


def test_a_student_of_another_family(tmp_path):
    """--model_type is the teacher's; the student's is in its own config.json."""
    theirs = save_models(tmp_path / "roberta", "roberta", byte_level(tmp_path), type_vocab_size=1)
    ours = save_models(tmp_path / "bert", hidden_size=8, seed=1)
    write_task(theirs)
    more = ["--model_type", "roberta", "--max_seq_length", 60]
    students = [f"bert={ours / 'teacher'}", f"itself={theirs / 'teacher'}"]
    report.main(report_flags(theirs, tmp_path / "r", students, *more))
    maps = read(tmp_path / "r", "heat_maps").set_index("name").diagonal_biased
    assert maps["itself"] == 1 and 0 < maps["bert"] < 1
    (note,) = alone_notes(tmp_path / "r")
    assert "bert (60 tokens a row, a vocabulary of 34)." in note


# ---- refusals, and what is doubtful --------------------------------------------------------------


def test_what_cannot_be_read_is_refused(tiny, report_runs, taught_by_others, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(taught_by_others / "fsd_g", bare)
    for path in (*bare.glob("*token*"), *bare.glob("vocab*")):
        path.unlink()
    permuted = permute_vocabulary(report_runs / "fsd_i", tmp_path / "permuted")
    small = permute_vocabulary(report_runs / "fsd_i", tmp_path / "small")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=2, num_labels=2
    )
    transformers.BertForSequenceClassification(config).save_pretrained(small)
    others = ["--model_name_or_path", taught_by_others / "teacher"]
    for students, more, said in (
        ([bare], others, "bare was trained with a tokenizer of its own, and there is none in"),
        (
            [f"a={report_runs / 'fsd_i'}", f"a={permuted}"],
            [],
            "are both named a, but read the rows",
        ),
        (
            [small],
            ["--max_seq_length", 24],
            "small has a vocabulary of 9 tokens and takes 512 positions, but the rows have tokens",
        ),
    ):
        with pytest.raises(UserError, match=said):
            report.main(report_flags(tiny, tmp_path / "r", students, *more))
    assert not (tmp_path / "r").exists()


def test_a_tokenizer_that_was_changed_is_told(tiny, report_runs, tmp_path, capsys):
    """The student reads with it, as anybody would."""
    shutil.copytree(report_runs / "fsd_i", tmp_path / "words")
    tokenizer = json.loads((tmp_path / "words/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]
    (tmp_path / "words/tokenizer.json").write_text(json.dumps(tokenizer))
    report.main(report_flags(tiny, tmp_path / "r", [tmp_path / "words"]))
    said = "words is read with another tokenizer than it was trained with."
    assert said in capsys.readouterr().err
    assert len(alone_notes(tmp_path / "r")) == 1
