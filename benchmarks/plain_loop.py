"""The training loop that everybody writes, to compare this project's scripts with.

    python benchmarks/plain_loop.py --teacher TEACHER --model_name_or_path PRETRAINED \\
      --data_dir glue --task_name MRPC --bf16                # vanilla KD, half of the layers
    python benchmarks/plain_loop.py --model_name_or_path PRETRAINED --data_dir glue \\
      --task_name CoLA                                       # the fine-tuning of a teacher

It trains an epoch with transformers' models and torch alone: mini-batches padded to their longest
row, the teacher without a gradient graph, α CE + (1-α) τ² KL with α 0.5 and τ 5, AdamW with a
linear decay, gradients clipped at 1, autocast for bfloat16; then it evaluates on the dev set. Of
this project it uses only what defines tasks, reads their files and words errors.
benchmarks/step.py times its step, benchmarks/end_to_end.py the command.
"""

import argparse
import sys
import time

import report
import torch
import torch.nn.functional as F

from common import UserError, cli, expand_path, expand_path_or_none
from tasks.glue import get_task
from tasks.reading import read_examples
from training.loading import loading

ALPHA, TEMPERATURE = 0.5, 5


def collate(rows):
    """Rows, dicts of lists of ids, as tensors (B, W) padded with 0 to the longest; labels (B,)."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {
        key: torch.tensor([row[key] + [0] * (longest - len(row[key])) for row in rows])
        for key in rows[0]
        if key != "labels"
    }
    return batch | {"labels": torch.tensor([row["labels"] for row in rows])}


def distillation_loss(logits, logits_t, labels):
    """α CE + (1-α) τ² KL; without a teacher's logits the cross-entropy alone."""
    hard = F.cross_entropy(logits, labels)
    if logits_t is None:
        return hard
    soft, soft_t = (F.log_softmax(z / TEMPERATURE, -1) for z in (logits, logits_t))
    kl = F.kl_div(soft, soft_t, reduction="batchmean", log_target=True)
    return ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * kl


def plain_step(student, teacher, batches, device, bf16=False, total=1000):
    """A function that takes an optimizer step on the next of the batches.

    student, teacher: transformers' classifiers on the device; without a teacher (None) it
    fine-tunes. batches: an iterator of what `collate` returns. total: the number of steps after
    which the learning rate is 0.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0.0, 1 - n / total))
    student.train()
    if teacher is not None:
        teacher.eval()

    def step():
        batch = {key: value.to(device) for key, value in next(batches).items()}
        labels = batch.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits, logits_t = student(**batch).logits, None
            if teacher is not None:
                with torch.no_grad():
                    logits_t = teacher(**batch).logits
            loss = distillation_loss(logits, logits_t, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step


# ---- the command ---------------------------------------------------------------------------------


def two_classes(name):
    """The Task of this name; UserError unless it has two classes, as the models here have."""
    task = get_task(name)
    if len(task.labels or ()) != 2:
        raise UserError(
            f"this benchmark trains models of two classes, which {task.name} does not have: "
            "take CoLA, SST-2, MRPC, QQP, QNLI, RTE or WNLI"
        )
    return task


def tokenizer_of(path):
    import transformers

    with loading("tokenizer", path):
        return transformers.AutoTokenizer.from_pretrained(path)


def read(task, data_dir, split, tokenizer, length):
    """The rows of a split, tokenised together, not padded: dicts of lists of ids, and labels."""
    examples = read_examples(task, data_dir, split)
    encoded = tokenizer(
        [example.text_a for example in examples],
        [example.text_b for example in examples] if examples[0].text_b else None,
        truncation=True,
        max_length=length,
    )
    return [
        {key: values[i] for key, values in encoded.items()} | {"labels": example.label}
        for i, example in enumerate(examples)
    ]


def load(path, layers=None):
    import transformers

    shape = {"num_hidden_layers": layers} if layers else {}
    with loading("model", path):
        return transformers.AutoModelForSequenceClassification.from_pretrained(path, **shape)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--teacher", type=expand_path_or_none, help="Folder of a fine-tuned teacher.")
    add(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        help="Folder of the model that is "
        "fine-tuned, or whose first layers the student starts from, half as many as the teacher's.",
    )
    add("--data_dir", type=expand_path, required=True, help="Folder with the task's .tsv files.")
    add("--task_name", default="MRPC", help="A task of two classes. Default MRPC.")
    add("--max_seq_length", type=report.positive, default=128, help="Default 128.")
    add("--per_gpu_train_batch_size", type=report.positive, default=32, help="Default 32.")
    add("--bf16", action="store_true", help="Autocast with bfloat16.")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = two_classes(args.task_name)
    tokenizer = tokenizer_of(args.teacher or args.model_name_or_path)
    rows, dev = (
        read(task, args.data_dir, split, tokenizer, args.max_seq_length)
        for split in ("train", "dev")
    )
    teacher, layers = None, None
    if args.teacher:
        teacher = load(args.teacher).to(device)
        layers = teacher.config.num_hidden_layers // 2
    student = load(args.model_name_or_path, layers).to(device)
    size = args.per_gpu_train_batch_size
    loader = torch.utils.data.DataLoader(rows, size, shuffle=True, collate_fn=collate)
    step = plain_step(student, teacher, iter(loader), device, args.bf16, total=len(loader))
    started = time.perf_counter()
    for _ in range(len(loader)):
        step()
    taken, right = time.perf_counter() - started, 0
    student.eval()
    with torch.no_grad():
        for batch in torch.utils.data.DataLoader(dev, 64, collate_fn=collate):
            batch = {key: value.to(device) for key, value in batch.items()}
            labels = batch.pop("labels")
            right += int((student(**batch).logits.argmax(-1) == labels).sum())
    print(f"{len(rows) / taken:.2f} examples/s in training, {100 * right / len(dev):.1f} % on dev")


if __name__ == "__main__":
    sys.exit(cli(main))
