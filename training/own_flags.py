"""The flags of a task on own files, that is rows of the user's own; see tasks/own.py."""

from pathlib import Path

from training.flag import Flag, Section

OWN_FILES = Section(
    "data",
    Flag(
        "train_file",
        "place",
        Path,
        help="Rows of your own to train on, instead of --data_dir: .csv, .tsv or JSON lines "
        "(.json, .jsonl), UTF-8. A row without a label has KD and the structures alone.",
    ),
    Flag(
        "validation_file",
        "place",
        Path,
        help="The rows to evaluate on, for --do_eval; all have labels.",
    ),
    Flag(
        "test_file",
        "place",
        Path,
        help="The rows to predict, for --do_predict; labels are not read.",
    ),
    Flag(
        "text_column_names",
        "data",
        str,
        help="The one or two columns of the text, with a comma between. Default: sentence1 and "
        "sentence2, premise and hypothesis, question1 and question2, question and sentence, text_a "
        "and text_b, text, or sentence.",
        before=None,
        beside=("max_seq_length",),
    ),
    Flag(
        "label_column_name",
        "data",
        str,
        help="The column of the label. Default: label; of a regression also score.",
        before=None,
        beside=("max_seq_length",),
    ),
    Flag(
        "do_regression",
        "data",
        bool,
        False,
        "The labels are numbers to predict, and no classes.",
        before=False,
        beside=("max_seq_length",),
    ),
)
