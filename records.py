"""What a run leaves on disk, and how: whole files or none, fingerprints, run.json, results.csv."""
import contextlib
import hashlib
import os
import shutil
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what was expected, what was found, where, what to do."""


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path` (to be written as a file or a folder); on success it takes path's name.

    A process killed at any moment leaves either the old content or the new, never a part of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def sha256_of_file(path):
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
