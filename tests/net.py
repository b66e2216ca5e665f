"""Check that a change of the code changes no result: all methods on tiny models, before and after.

    python tests/net.py write before.json      # a minute
    ... move code ...
    python tests/net.py check before.json      # the same machine: to the last bit

Every method trains a few steps. The result file has the numbers in the log, the sha256 of the
weights, dev scores and predictions, and the names of the files that each run writes.
tests/test_net.py compares all except the weights with tests/net.json, up to the rounding of another
machine; `write --portable` makes that file.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

import conftest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

sys.path.insert(0, str(conftest.ROOT))
TIMES = ("examples_per_second", "minutes", "seconds", "eta")
ONE, G, ILG, RIVAL = (
    "glue_with_cka_i",
    "glue_with_cka_g",
    "glue_with_cka_ilg",
    "baselines.glue_with_baseline",
)
# name -> (script, its own flags); MEMORY and CACHE stand for flags that work() fills in
SHARED = {
    "teacher": ("train_teacher", ""),
    "none": (RIVAL, "--method none"),
    "VKD": (RIVAL, "--method vkd --alpha 0.2"),
    "PKD": (RIVAL, "--method pkd"),
    "RKD": (RIVAL, "--method rkd"),
    "RKD, first tokens": (RIVAL, "--method rkd --sample_features first"),
    "MiniLM": (RIVAL, "--method minilm"),
    "MiniLM, v2": (RIVAL, "--method minilm --relation_heads 2"),
    "Gram": (RIVAL, "--method gram"),
    "Gram, tokens": (RIVAL, "--method gram --between tokens"),
    "Procrustes": (RIVAL, "--method procrustes --mask_padding"),
    "FSD_I": (ONE, "--internal --beta 4"),
    "FSD_I, masked, grouped": (ONE, "--internal --mask_padding --group_by_length"),
    "FSD_I, log_mean": (ONE, "--internal --intra_reduction log_mean"),
    "FSD_I, layers": (ONE, "--internal --do_layerwise"),
    "FSD_I, accumulated": (ONE, "--internal --gradient_accumulation_steps 2 --warmup_ratio 0.3"),
    "FSD_I, bf16": (ONE, "--internal --bf16"),
    "FSD_L": (ONE, "--beta 4"),
    "FSD_L, debiased": (ONE, "--cka_estimator debiased"),
    "FSD_L, first tokens": (ONE, "--sample_features first"),
    "FSD_G": (G, "--gamma_m 1e-3 --student_memory_learning_rate 1e-2 MEMORY"),
    "FSD_G, released": (G, "--gamma_m 1e-3 --student_memory_init released MEMORY"),
    "FSD_IL": (ILG, "--gamma_g 0 --gamma_i 2"),
    "FSD_ILG": (ILG, "--gamma_g 0.1 MEMORY"),
    "FSD_ILG, cached": (ILG, "--gamma_g 0.1 MEMORY CACHE"),
    "FSD_I, cached": (ONE, "--internal CACHE"),
    "MiniLM, cached": (RIVAL, "--method minilm CACHE"),
}
MEMORIES = {
    "memory": "",
    "memory, released": "--memory_init released",
    "memory, normal, masked": "--memory_init normal --mask_padding",
}


def hashed(tensors):
    """The sha256 of {name: tensor}, names and values, as text."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def without_times(value):
    """A JSON value without the fields that depend on the clock."""
    if isinstance(value, dict):
        return {
            key: without_times(one)
            for key, one in value.items()
            if not any(word in key for word in TIMES)
        }
    return value


def found_in(output):
    """What a run left: names of files, sha256 of weights, numbers of log, dev and predictions."""
    files = [
        path
        for path in sorted(output.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    ]
    found = {
        "files": [str(path.relative_to(output)) for path in files],
        "weights": {},
        "numbers": {},
    }
    for path in files:
        name = str(path.relative_to(output))
        if path.suffix == ".safetensors":
            found["weights"][name] = hashed(load_file(path))
        elif path.name == "train_log.jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            found["numbers"]["log"] = [without_times(json.loads(line)) for line in lines]
        elif path.name == "eval_results.json":
            found["numbers"]["dev"] = without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "dev_predictions.tsv":
            rows = path.read_text(encoding="utf-8").splitlines()
            found["predictions"] = rows[0]
            found["numbers"]["predictions"] = [
                [
                    float(word) if word.replace(".", "").replace("-", "").isdigit() else word
                    for word in row.split("\t")
                ]
                for row in rows[1:]
            ]
    return found


def work(folder):
    """Run all of MEMORIES and SHARED in a folder; returns {name: what the run left}."""
    tiny = conftest.save_models(folder / "tiny")
    conftest.write_task(tiny)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    found, masked = {}, folder / "memory, normal, masked"

    def run(name, script, words):
        AcceleratorState._reset_state(reset_partial_state=True)
        importlib.import_module(script).main([str(word) for word in words])
        found[name] = found_in(folder / name)

    for name, own in MEMORIES.items():
        words = conftest.memory_flags(tiny, folder / name, "--memory_num_train_epochs", 2)
        run(name, "train_memory", [*words, *own.split()])
    for name, (script, own) in SHARED.items():
        memory = ["--teacher_memory_path", folder / ("memory" if "--mask" not in own else masked)]
        own = [
            more
            for word in own.split()
            for more in (
                memory
                if word == "MEMORY"
                else ["--teacher_cache", folder / "teacher_cache"]
                if word == "CACHE"
                else [word]
            )
        ]
        words = conftest.flags(
            tiny,
            folder / name,
            "--max_steps",
            4,
            "--seed",
            5,
            *own,
            teacher=script == "train_teacher",
        )
        run(name, script, words)
    return found


def differences(one, other, exact, place=""):
    """Yield each difference of two results, in words.

    exact: compare weights, and numbers to the last bit; else numbers to a thousandth. place: where
    the results stand in the whole.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if key not in one or key not in other:
                yield f"{place}/{key} is in one of the two alone"
            elif exact or key != "weights":
                yield from differences(one[key], other[key], exact, f"{place}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, exact, f"{place}/{i}")
    elif isinstance(one, float) and isinstance(other, float) and not exact:
        if not abs(one - other) <= 1e-3 * max(1, abs(one), abs(other)):
            yield f"{place}: {one} and {other}"
    elif one != other:
        yield f"{place}: {one} and {other}"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--portable", action="store_true", help="Without the weights' sha256.")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = work(Path(folder))
    found = json.loads(json.dumps(found))
    if args.what == "write":
        if args.portable:
            found = {
                name: {key: one for key, one in run.items() if key != "weights"}
                for name, run in found.items()
            }
        args.file.write_text(
            json.dumps(found, indent=None if args.portable else 1) + "\n", encoding="utf-8"
        )
        return 0
    before = json.loads(args.file.read_text(encoding="utf-8"))
    told = list(differences(before, found, exact=not args.portable))
    print("\n".join(told[:50]) or f"{len(found)} runs are the same")
    return bool(told)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
