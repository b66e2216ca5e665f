"""Take models and data to a machine without a network, in parts: packed here, joined there.

    python scripts/carry.py pack --models MPNET --data_dir glue --tasks MRPC RTE --output_dir parts
    python scripts/carry.py join parts --output_dir carried

pack writes the folders parts/1, parts/2, ..., one for each trip. Each holds one part of at most
--part_mb megabytes, and parts.json, which lists all parts. The parts are pieces of one .tar.xz
file. That file has models/NAME for each model, with configuration, tokenizer and weights in half
precision, and glue/TASK for each task, with its training and dev files.

join looks for all parts in the folders named and below them, checks their sha256, and writes the
output folder, whole or not at all. Training loads the half-precision weights as float32 again,
rounded to 11 bits.
"""

import argparse
import json
import lzma
import math
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, atomic_path, cli, expand_path, say, sha256_of_file
from tasks.glue import get_task
from tasks.task import find_file

MANIFEST = "parts.json"
WEIGHTS = "model.safetensors"
TOKENIZER = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
# lp=1 tells the compressor that numbers are two bytes long, which saves 2.4 % more
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "lp": 1, "lc": 3, "pb": 1}]
BLOCK = 2**20


# ---- packing -------------------------------------------------------------------------------------


def halve(source, target):
    """Write a copy of a safetensors file with its floating-point tensors in float16.

    UserError if a number is too large for float16.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(torch.float16)
            if not tensors[name].isfinite().all():
                raise UserError(
                    f"{source}: {name} has numbers that half precision cannot hold: "
                    "take another model"
                )
    save_file(tensors, target, {"format": "pt"})


def collect_model(folder, target):
    """Copy the files that loading a model needs; the weights are written in half precision."""
    source = Path(folder)
    for name in ("config.json", WEIGHTS):
        if not (source / name).is_file():
            raise UserError(
                f"--models {folder}: there is no {name} in it; name folders of models "
                "with safetensors weights in one file"
            )
    target.mkdir(parents=True)
    for pattern in TOKENIZER:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
    halve(source / WEIGHTS, target / WEIGHTS)


def collect_task(task, data_dir, target):
    for split in task.files:
        if split not in task.submissions:
            source = find_file(task, data_dir, split)
            (target / task.folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / task.folder / source.name)


def compress(folder, path):
    """Write all of a folder as a .tar.xz file; the same content gives the same bytes."""

    def anonymous(member):
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with (
        lzma.open(path, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder), recursive=False, filter=anonymous)


def split(path, size, output):
    """Cut a file into parts of `size` bytes in output/1, output/2, ...

    Returns a list, [{"name": file name, "sha256": checksum} of each part], for parts.json.
    """
    parts = []
    with open(path, "rb") as whole:
        for number in range(1, -(-path.stat().st_size // size) + 1):
            name = f"carried.tar.xz.part-{number}"
            part = output / str(number) / name
            part.parent.mkdir(parents=True)
            left = size
            with open(part, "wb") as file:
                while left and (block := whole.read(min(BLOCK, left))):
                    left -= file.write(block)
            parts.append({"name": name, "sha256": sha256_of_file(part)})
    return parts


def is_packing(folder):
    """True for a folder that holds only the numbered folders of an earlier packing."""
    return folder.is_dir() and all(
        path.name.isdecimal() and (path / MANIFEST).is_file() for path in folder.iterdir()
    )


def pack(args):
    if not (args.models or args.tasks):
        raise UserError("there is nothing to pack: name --models, or --data_dir and --tasks")
    if args.tasks and not args.data_dir:
        raise UserError("--tasks needs --data_dir, the folder of their files")
    output = Path(args.output_dir)
    if output.exists() and not is_packing(output):
        raise UserError(
            f"{output} exists, and holds something else than the parts of an earlier pack: "
            "name another --output_dir"
        )
    names = [Path(model).resolve().name for model in args.models]
    if len(set(names)) < len(names):
        raise UserError(
            "two folders in --models have the same name, so one would replace the other: rename one"
        )
    with tempfile.TemporaryDirectory() as place, atomic_path(output) as parts:
        place, parts = Path(place), Path(parts)
        for model, name in zip(args.models, names, strict=True):
            collect_model(model, place / "all" / "models" / name)
        for name in args.tasks:
            collect_task(get_task(name), args.data_dir, place / "all" / "glue")
        compress(place / "all", place / "carried.tar.xz")
        found = split(place / "carried.tar.xz", int(args.part_mb * 1e6), parts)
        for number in range(1, len(found) + 1):
            (parts / str(number) / MANIFEST).write_text(
                json.dumps({"parts": found}, indent=1), encoding="utf-8"
            )
    say(
        f"{len(found)} parts of at most {args.part_mb:g} MB are in {output}: a trip for each of "
        "its folders"
    )


# ---- joining -------------------------------------------------------------------------------------


def read_parts(path):
    """The list in a parts.json, as split returns it; UserError if the file is damaged."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
        return [{"name": str(part["name"]), "sha256": str(part["sha256"])} for part in parts]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy it from the parts again"
        ) from None


def find_parts(folders):
    """The paths of all parts, in order. Refuses missing, damaged or differently packed parts."""
    files = {}  # name -> all files of that name, as a part may have come twice
    for folder in folders:
        for path in Path(folder).rglob("carried.tar.xz.part-*"):
            files.setdefault(path.name, []).append(path)
    manifests = [path for folder in folders for path in Path(folder).rglob(MANIFEST)]
    if not manifests:
        raise UserError(
            f"there is no {MANIFEST} in {', '.join(map(str, folders))}: name the "
            "folders that pack wrote"
        )
    found = [read_parts(path) for path in manifests]
    if any(parts != found[0] for parts in found):
        raise UserError(
            f"the {MANIFEST} files in these folders list different parts, so they come from more "
            "than one call of pack: name only the folders of one call"
        )
    missing = [part["name"] for part in found[0] if not files.get(part["name"])]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found[0])} parts are missing, the first is {missing[0]}: "
            "bring them here, too, and name their folders"
        )
    return [whole_one(files[part["name"]], part["sha256"]) for part in found[0]]


def whole_one(paths, sha256):
    """The first of these files that has the checksum; UserError if none has."""
    for path in paths:
        if sha256_of_file(path) == sha256:
            return path
    raise UserError(
        f"{paths[0]} is damaged, as its sha256 is not that in {MANIFEST}: copy it from the packed "
        "parts again"
    )


def join(args):
    output = Path(args.output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not an empty folder: name another --output_dir")
    files = find_parts(args.folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.resolve().parent) as place:
        joined = Path(place) / "carried.tar.xz"
        with open(joined, "wb") as whole:
            for path in files:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, whole, BLOCK)
        with atomic_path(output) as folder, tarfile.open(joined, "r:xz") as archive:
            # the filter refuses whatever would leave the folder
            archive.extractall(folder, filter="data")
    say(
        f"joined in {output}: "
        + ", ".join(str(path.relative_to(output)) for path in sorted(output.glob("*/*")))
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="Here: models and data into parts.")
    add = packing.add_argument
    add("--models", nargs="+", type=expand_path, default=[], help="Folders of models.")
    add("--data_dir", type=expand_path, help="The folder of the GLUE files.")
    add("--tasks", nargs="+", default=[], help="Names of tasks of GLUE.")
    add(
        "--part_mb",
        type=float,
        default=50,
        help="The most that travels at once, in megabytes. Default 50.",
    )
    add("--output_dir", type=expand_path, required=True, help="Where the parts go.")
    joining = commands.add_parser("join", help="There: parts into a folder.")
    joining.add_argument(
        "folders", nargs="+", type=expand_path, help="Where the parts are, at any depth."
    )
    joining.add_argument(
        "--output_dir", type=expand_path, required=True, help="The folder to write."
    )
    args = parser.parse_args(argv)
    if args.command == "pack" and not 0.001 <= args.part_mb < math.inf:
        raise UserError(f"--part_mb must be a number from 0.001 on, got {args.part_mb:g}")
    args.output_dir = str(Path(args.output_dir).resolve())
    (pack if args.command == "pack" else join)(args)


if __name__ == "__main__":
    sys.exit(cli(main))
