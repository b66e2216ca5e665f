"""Shared by all tests: golden values, tiny models and data, runs on them, and comparisons of runs.

Tests find the repository's modules, use no network, and leave the user's caches alone. "The tiny
task" is write_task's RTE with the models of save_models.
"""

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
pytest.register_assert_rewrite("padded_runs", "stopped_runs", "teacher_caches")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
    "GIT_OPTIONAL_LOCKS": "0",  # a run killed during `git status` would leave a lock
}
GOLDEN = json.loads((ROOT / "tests" / "golden_losses.json").read_text())["cases"]

import torch  # noqa: E402 - after the environment
import transformers  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import glue_with_cka_g  # noqa: E402
import glue_with_cka_i  # noqa: E402
import train_memory  # noqa: E402
from common import cli  # noqa: E402
from tasks.features import load_features  # noqa: E402
from tasks.glue import get_task  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
WORDS = (
    "the a dog cat bird horse child man woman sees hears likes follows not every some no red blue "
    "old young big house tree road river runs sleeps sings"
).split()


def pytest_addoption(parser):
    parser.addoption("--rehearse", action="store_true", help="run tests/test_gpu.py on the CPU")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Feature caches in the test's own folder; a fresh accelerate state for each in-process run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    AcceleratorState._reset_state(reset_partial_state=True)


def sentence(rng):
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 9)))


def write_task(folder, rows=(21, 12, 5), seed=0):
    """Write a small RTE in folder/RTE; returns `folder`. rows: of train, dev and test.

    A pair is entailed if its second sentence has no "not".
    """
    folder = Path(folder) / "RTE"
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    for split, count in zip(("train", "dev", "test"), rows, strict=True):
        lines = ["index\tsentence1\tsentence2" + ("\tlabel" if split != "test" else "")]
        for i in range(count):
            second = sentence(rng)
            label = "not_entailment" if "not" in second.split() else "entailment"
            lines.append(
                f"{i}\t{sentence(rng)}\t{second}" + (f"\t{label}" if split != "test" else "")
            )
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder.parent


SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
PAIR_LABELS = {
    "id2label": {0: "entailment", 1: "not_entailment"},
    "label2id": {"entailment": 0, "not_entailment": 1},
}


def wordpiece(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64)


def save_models(folder, family="bert", tokenizer=None, seed=0, **shape):
    """Write folder/pretrained, a random encoder, and folder/teacher, a random classifier of RTE,
    both with their tokenizer; returns `folder`. shape: fields of the config; None removes one.
    """
    (folder / "pretrained").mkdir(parents=True)
    tokenizer = tokenizer or wordpiece(folder)
    shape = {key: value for key, value in (SHAPE | shape).items() if value is not None}
    config = transformers.AutoConfig.for_model(
        family, **shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "pretrained")
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "pretrained", num_labels=2, **PAIR_LABELS
    )
    teacher.save_pretrained(folder / "teacher")
    for name in ("pretrained", "teacher"):
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder with pretrained/, teacher/ (4 layers, 16 wide) and RTE/ (21, 12 and 5 rows)."""
    folder = save_models(tmp_path_factory.mktemp("tiny"))
    write_task(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_without_dropout(tmp_path_factory):
    folder = save_models(
        tmp_path_factory.mktemp("plain"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    write_task(folder)
    return folder


def flags(tiny, output, *more, teacher=False):
    """The flags of a short run on the tiny task, as words. teacher: of a fine-tuning instead."""
    models = (
        ["--model_name_or_path", str(tiny / "pretrained")]
        if teacher
        else [
            "--model_name_or_path",
            str(tiny / "teacher"),
            "--model_name_or_path_for_copy",
            str(tiny / "pretrained"),
            "--copy_teacher",
        ]
    )
    return [
        *models,
        "--data_dir",
        str(tiny),
        "--task_name",
        "RTE",
        "--max_seq_length",
        "24",
        "--do_train",
        "--do_eval",
        "--per_gpu_train_batch_size",
        "8",
        "--learning_rate",
        "1e-3",
        "--num_train_epochs",
        "2",
        "--logging_steps",
        "1",
        "--output_dir",
        str(output),
        *map(str, more),
    ]


def shell(script, *arguments, timeout=300, **kwargs):
    """Run a script as a user does; returns the finished process with its text output."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        **kwargs,
    )


def refusal(capsys, arguments, main=glue_with_cka_i.main):
    """The line "error: ..." of a command that a script's main refuses with exit code 1."""
    capsys.readouterr()
    assert cli(main, [str(a) for a in arguments]) == 1
    said = capsys.readouterr().err.replace("\r", "\n").split("\n")
    (line,) = [line for line in said if line.startswith("error:")]
    return line


def torchrun(script, arguments):
    """The command, as words, that runs a script as two gloo processes.

    They run under leaves_its_group.py, which fails if gloo is not shut down at the end.
    """
    launcher = "-m torch.distributed.run --nproc_per_node 2".split()
    launcher += "--rdzv_backend c10d --rdzv_endpoint localhost:0".split()
    looking = [str(ROOT / "tests/leaves_its_group.py"), str(ROOT / script)]
    return [sys.executable, *launcher, *looking, *map(str, arguments)]


def two_processes(script, arguments, environment=None):
    """Run a script as two processes, which must succeed."""
    done = subprocess.run(
        torchrun(script, arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # torch should look for unused weights only in models that have some
    assert "unused" not in done.stderr


def wait_until(true, process=None, seconds=100):
    """Wait until true() is true; a process, if given, must not end before."""
    deadline = time.monotonic() + seconds
    while not true():
        if process:
            assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, f"{seconds} s have passed"
        time.sleep(0.01)


def read_log(output):
    return [
        json.loads(line) for line in (Path(output) / "train_log.jsonl").read_text().splitlines()
    ]


def log_without_speed(output):
    """The entries of a run's log, without the field that depends on the clock."""
    return [
        {key: value for key, value in entry.items() if key != "examples_per_second"}
        for entry in read_log(output)
    ]


def assert_same_files(one, two, *names):
    """The files of these names have the same bytes in both folders."""
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def same_weights(one, two):
    """Whether the models in two folders are equal to the last bit."""
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same_training(one, two, **tolerance):
    """Losses, gradient norms and weights of the runs in two folders agree up to rounding."""
    tolerance = tolerance or {"rtol": 1e-3, "atol": 1e-5}
    a, b = read_log(one), read_log(two)
    assert len(a) == len(b)
    for key in ("total", "grad_norm"):
        torch.testing.assert_close(
            *(torch.tensor([entry[key] for entry in log]) for log in (a, b)), **tolerance
        )
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for key in weights[0]:
        # softmax ignores this bias: its gradient is rounding noise, which Adam enlarges
        if not key.endswith("key.bias"):
            torch.testing.assert_close(weights[0][key], weights[1][key], **tolerance)


def change_json(path, **changes):
    """Set fields of the JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@contextlib.contextmanager
def room_for(size):
    """Within, no file can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def draw(seed, *shape, dtype=torch.float64, **kwargs):
    """A tensor of normal random numbers, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator, **kwargs)


def rotation(width, seed=0):
    """A random orthogonal matrix, (width, width)."""
    return torch.linalg.qr(draw(seed, width, width)).Q


def draw_attention(heads, width, seed, rows=3, length=5):
    """Queries, keys and values, each (rows, heads, length, width / heads)."""
    return [draw(seed + i, rows, heads, length, width // heads) for i in range(3)]


def memory_flags(folder, output, *more):
    """The flags of train_memory.py that cluster the tiny task's 21 rows into 4, as words."""
    return [
        str(x)
        for x in (
            "--model_name_or_path",
            folder / "teacher",
            "--data_dir",
            folder,
            "--task_name",
            "RTE",
            "--max_seq_length",
            24,
            "--do_train",
            "--num_centroid",
            4,
            "--per_gpu_train_batch_size",
            8,
            "--seed",
            3,
            "--output_dir",
            output,
            *more,
        )
    ]


@pytest.fixture(scope="session")
def trained(tiny_without_dropout, tmp_path_factory):
    """The folder of a memory of the teacher of tiny_without_dropout."""
    folder = tmp_path_factory.mktemp("memory")
    train_memory.main(memory_flags(tiny_without_dropout, folder / "m"))
    return folder / "m"


def teacher_features(folder, length=24):
    """The teacher's penultimate features, (21, length * 16), computed by transformers alone."""
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "teacher"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "teacher")
    rows = load_features(get_task("rte"), folder, "train", tokenizer, length).tensors
    rows = {key: value.long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        return teacher(**rows, output_hidden_states=True).hidden_states[3].flatten(1)  # of 4 layers


@pytest.fixture(scope="session")
def trained_with_dropout(tiny, tmp_path_factory):
    """The folder of a memory of the teacher of `tiny`, which has dropout."""
    folder = tmp_path_factory.mktemp("memory")
    train_memory.main(memory_flags(tiny, folder / "m"))
    return folder / "m"


@pytest.fixture(scope="session")
def report_runs(tiny, tmp_path_factory):
    """Folder with a memory of the teacher of `tiny`, and its students: two of VKD, one of FSD_I,
    one of FSD_G; dev has 12 rows.
    """
    folder = tmp_path_factory.mktemp("runs")
    train_memory.main(memory_flags(tiny, folder / "memory"))
    for seed in (1, 2):
        vkd = flags(tiny, folder / f"vkd,seed={seed}", "--beta", 0, "--seed", seed)
        glue_with_cka_i.main(vkd)
    glue_with_cka_i.main(flags(tiny, folder / "fsd_i", "--internal"))
    glue_with_cka_g.main(flags(tiny, folder / "fsd_g", "--teacher_memory_path", folder / "memory"))
    return folder
