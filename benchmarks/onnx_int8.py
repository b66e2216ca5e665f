"""What a model keeps as an ONNX file: dev metrics, size, and time per row, beside PyTorch.

    python benchmarks/onnx_int8.py --model_name_or_path runs/mrpc/fsd_i --data_dir glue \\
      --task_name MRPC --onnx onnx/model.onnx int8/model_quantized.onnx --csv results/onnx_int8.csv

The ONNX files are made by optimum-cli (docs/running.md, "Publish it, make it small"), and reading
them needs `pip install onnxruntime`. PyTorch and each file see the dev rows from the longest to the
shortest, on one thread, in mini-batches that are cut to their longest row. The time is the
processor's time for this process, so that other work counts little. PyTorch and the files take
turns, and the fastest of --repeats passes counts.
"""

import argparse
import sys
import time
from pathlib import Path

from report import positive, report  # puts the repository on the path

from common import UserError, cli, expand_path, expand_path_or_none
from tasks.glue import get_task


def load_torch(folder):
    """The model in a folder, of PyTorch, as a function of mini-batches.

    It takes a dict, name -> tensor (B, W), and returns the logits (B, K), a NumPy array.
    """
    import torch
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def compute(rows):
        with torch.inference_mode():
            return model(**rows).logits.numpy()

    return compute


def load_onnx(path):
    """The model in an ONNX file, as a function like that of load_torch."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        raise UserError("ONNX files need a package: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def compute(rows):
        # as in PyTorch, a tokenizer without token types has the first type everywhere
        rows = {"token_type_ids": torch.zeros_like(rows["input_ids"]), **rows}
        if strange := [name for name in names if name not in rows]:
            raise UserError(
                f"{path} has the input {strange[0]}, and the rows have {', '.join(sorted(rows))}: "
                "export the model again for text classification"
            )
        return session.run(None, {name: rows[name].numpy() for name in names})[0]

    return compute


def make_batches(features, size):
    """[(indices, name -> int64 tensor (B, W))] of a split, the longest rows first."""
    lengths = features.tensors["attention_mask"].sum(1)
    inputs = {name: value for name, value in features.tensors.items() if name != "labels"}
    batches = []
    for chosen in lengths.argsort(descending=True, stable=True).split(size):
        width = lengths[chosen].max()  # (B, L) -> (B, W)
        rows = {name: value[chosen, :width].long() for name, value in inputs.items()}
        batches.append((chosen, rows))
    return batches


def predict(compute, batches):
    """The logits (N, K) in the order of the rows, and the processor's seconds that they took."""
    import numpy as np

    started = time.process_time()
    found = [compute(rows) for _, rows in batches]
    seconds = time.process_time() - started
    order = np.concatenate([chosen.numpy() for chosen, _ in batches])
    return np.concatenate(found)[order.argsort()].astype(np.float64), seconds


def measure(forms, task, features, batches, repeats):
    """{form: its columns of the table}. forms: name -> (function of mini-batches, megabytes).

    repeats: how many passes over the mini-batches are timed.
    """
    from tasks.metrics import compute_metrics, predictions_from_logits  # here, as in main

    labels, found = features.tensors["labels"].numpy(), {}
    for _ in range(repeats):
        for name, (compute, megabytes) in forms.items():
            logits, seconds = predict(compute, batches)
            predictions = predictions_from_logits(task, logits)
            metrics = compute_metrics(task, predictions, labels)
            spent = 1000 * seconds / len(labels)
            best = min(spent, found.get(name, {}).get("CPU ms / row", spent))
            rounded = {metric: round(value, 4) for metric, value in metrics.items()}
            found[name] = {**rounded, "MB": round(megabytes, 1), "CPU ms / row": round(best, 2)}
    return found


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model_name_or_path", type=expand_path, required=True, help="A trained model's folder.")
    add("--onnx", nargs="*", type=expand_path, default=[], help="ONNX files made of it.")
    add("--data_dir", type=expand_path, required=True, help="The folder with the task's files.")
    add(
        "--task_name",
        required=True,
        help="A task of GLUE; its dev set counts, of MNLI the matched.",
    )
    add("--max_seq_length", type=positive, default=128, help="W. Default 128.")
    add("--batch_size", type=positive, default=1, help="Rows of a mini-batch. Default 1.")
    add("--repeats", type=positive, default=3, help="Passes over the rows. Default 3.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    task, folder = get_task(args.task_name), Path(args.model_name_or_path)
    for path in (folder / "model.safetensors", *map(Path, args.onnx)):
        if not path.is_file():
            raise UserError(
                f"there is no file {path}: name a trained model, and ONNX files made from it"
            )
    import torch  # here and below, after the flags
    import transformers

    from tasks.features import load_features

    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = load_features(task, args.data_dir, "dev", tokenizer, args.max_seq_length)
    weights = folder / "model.safetensors"
    forms = {"PyTorch, float32": (load_torch(folder), weights.stat().st_size / 1e6)}
    for path in map(Path, args.onnx):
        name = f"{path.parent.name}/{path.name}"
        if name in forms:
            raise UserError(f"two of --onnx would be the row {name}: rename the folder of one")
        forms[name] = load_onnx(path), path.stat().st_size / 1e6
    batches = make_batches(features, args.batch_size)
    found = measure(forms, task, features, batches, args.repeats)
    shared = {"task": task.name, "rows": len(features.indices)}
    report([{"form": name, **shared, **row} for name, row in found.items()], args.csv)


if __name__ == "__main__":
    sys.exit(cli(main))
