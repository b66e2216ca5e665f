"""GLUE's official archives: downloaded, checked, and placed whole or not at all."""

import http.client
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from common import UserError, atomic_path, sha256_of_file
from tasks.reading import count_rows, read_lines
from tasks.task import expect

BASE_URL = "https://dl.fbaipublicfiles.com/"
RETRY_WAITS = (1, 4, 16)  # seconds before each further try
TIMEOUT = 30  # seconds without a byte
CHECKSUMS = Path(__file__).with_name("glue.sha256")
ELSEWHERE = "try again or name a mirror with --base_url"


def download_task(task, data_dir, base_url=BASE_URL, overwrite=False, verify=True):
    """Download the whole folder of a task into data_dir, or leave nothing there.

    A complete folder is kept unless `overwrite`. verify: check checksums and row counts. UserError
    for a dead server, a broken archive, a wrong checksum or row count, and for an incomplete
    folder, which may hold the user's own files.
    """
    folder = Path(data_dir, task.folder)
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        missing = [name for name in task.files.values() if not (folder / name).is_file()]
        expect(
            not missing,
            f"no folder {folder} or a complete one",
            f"one without {', '.join(missing)}",
            "move it away, or pass --overwrite to replace it",
        )
        print(f"{task.name}: already in {folder}")
        return
    with atomic_path(folder) as temporary:
        temporary.mkdir(exist_ok=True)
        for source, name in task.downloads.items():
            _fetch(f"{base_url.rstrip('/')}/{source}", temporary / name)
            if name.endswith(".zip"):
                _unpack(task, temporary / name)
        if task.name == "MRPC":
            _split_mrpc(temporary)
        if verify:
            _verify(task, temporary)
    print(f"{task.name}: placed in {folder}")


def _fetch(url, path):
    """Download a URL to a file, with a progress bar. UserError if the last try fails, too."""
    for wait in (*RETRY_WAITS, None):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(path, "wb") as file:
                size = int(response.headers.get("Content-Length") or 0)
                with tqdm(
                    total=size or None, desc=path.name, unit="B", unit_scale=True, disable=None
                ) as bar:
                    while block := response.read(1 << 16):
                        bar.update(file.write(block))
                # urllib does not complain of a connection cut short
                if size and file.tell() != size:
                    raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            if wait is None:
                raise UserError(
                    f"Expected to download {url}, found {error!r} at the last of "
                    f"{len(RETRY_WAITS) + 1} tries; {ELSEWHERE}."
                ) from error
            time.sleep(wait)


def _unpack(task, path):
    """Replace a zip by the task's files in it, without the zip's folders.

    So no file can be written outside the zip's own folder. UserError for a broken or incomplete
    zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(
                archive.namelist(), key=lambda member: member.count("/"), reverse=True
            ):
                name = Path(member).name  # of equal names the outermost is written last
                if name in task.files.values() and not member.startswith("__MACOSX"):
                    (path.parent / name).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"Expected a zip archive of {task.name}, found a broken one, {path.name} ({error}); "
            f"{ELSEWHERE}."
        ) from error
    missing = [name for name in task.files.values() if not (path.parent / name).is_file()]
    expect(
        not missing,
        f"the files of {task.name} in {path.name}",
        f"no {', '.join(missing)}",
        ELSEWHERE,
    )
    path.unlink()


def _split_mrpc(folder):
    """Make MRPC's train, dev and test .tsv from its source files, with the rows in their order.

    The pairs of ids in dev_ids.tsv choose the dev rows.
    """
    dev_ids = set(read_lines(folder / "dev_ids.tsv"))  # lines of "ID1<TAB>ID2"
    header, *rows = read_lines(folder / "msr_paraphrase_train.txt") or [""]
    parts = {
        "train.tsv": ["\ufeff" + header],
        "dev.tsv": ["\ufeff" + header],
    }  # official files begin with a BOM
    for row in rows:
        parts["dev.tsv" if "\t".join(row.split("\t")[1:3]) in dev_ids else "train.tsv"].append(row)
    header, *rows = read_lines(folder / "msr_paraphrase_test.txt") or [""]
    parts["test.tsv"] = [
        "\t".join([str(first), row.partition("\t")[2]])  # an index replaces the label
        for first, row in zip(["index", *range(len(rows))], [header, *rows], strict=True)
    ]
    for name, lines in parts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _verify(task, folder):
    """Refuse a folder unless its row counts, and checksums if known, are the official ones."""
    sums = [line.split("  ") for line in read_lines(CHECKSUMS)]
    checks = [
        (Path(place).name, "sha256", expected, sha256_of_file(folder / Path(place).name))
        for expected, place in sums
        if Path(place).parent.name == task.folder
    ]
    checks += [
        (name, "number of rows", task.rows[split], count_rows(task, split, folder / name))
        for split, name in task.files.items()
    ]
    for name, what, official, found in checks:
        expect(
            official == found,
            f"the {what} {official} of {task.folder}/{name}",
            found,
            f"{ELSEWHERE}, or keep the file all the same with --no_verify",
        )
