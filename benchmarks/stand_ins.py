"""Models with random weights and a small task, for benchmarks and rehearsals where no real ones are
at hand.

    python benchmarks/stand_ins.py FOLDER --shape bert-base --rows 2000

leaves FOLDER/pretrained, an encoder of that shape (see benchmarks/forms.py), FOLDER/teacher, a
classifier, both with a tokenizer of the task's words, and FOLDER/RTE with the files of
scripts/toy_entailment.py. What is measured with them is time; scores mean nothing.
"""

import sys
from pathlib import Path

import torch
from forms import SHAPES  # puts the repository on the path
from report import positive

from common import cli, expand_path, make_folders
from scripts import toy_entailment
from training import flags

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_task(folder, rows):
    """Write RTE's three files. Returns all words in them, sorted."""
    task = toy_entailment.make_task({"train": rows, "dev": 200, "test": 20}, seed=0)
    for split, examples in task.items():
        toy_entailment.write_split(
            folder / "RTE" / f"{split}.tsv", examples, labelled=split != "test"
        )
    sentences = [
        sentence for examples in task.values() for example in examples for sentence in example[:2]
    ]
    return sorted(
        {word for sentence in sentences for word in sentence.replace(".", " .").lower().split()}
    )


def write_models(folder, shape, words):
    import transformers

    for name in ("pretrained", "teacher"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "pretrained" / "vocab.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in [*SPECIAL, *words]), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(vocab=str(vocabulary), model_max_length=512)
    depth, sizes = SHAPES[shape]
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_hidden_layers=depth, **sizes)
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "pretrained")
    labels = dict(enumerate(("entailment", "not_entailment")))
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "pretrained", id2label=labels, label2id={label: i for i, label in labels.items()}
    )
    teacher.save_pretrained(folder / "teacher")
    for name in ("pretrained", "teacher"):
        tokenizer.save_pretrained(folder / name)


def main(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("folder", type=expand_path, help="Where they go.")
    parser.add_argument("--shape", choices=SHAPES, default="bert-base", help="Default bert-base.")
    parser.add_argument("--rows", type=positive, default=2000, help="Training rows. Default 2000.")
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    make_folders(args, folder=folder)
    write_models(folder, args.shape, write_task(folder, args.rows))
    print(f"a {args.shape} of random weights and {args.rows} training rows are in {folder}")


if __name__ == "__main__":
    sys.exit(cli(main))
