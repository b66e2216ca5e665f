"""Places on disk, and files that are whole or not there: also when the process is killed or the
disk is full.
"""

import argparse
import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from pathlib import Path

from common.script import UNWRITABLE, UserError, is_main_process

DAY = 24 * 3600  # seconds
# in the names of unfinished files, as machines may share a folder
HOST = re.sub(r"\W", "_", platform.node())
UMASK = os.umask(0)
os.umask(UMASK)

# ---- places on disk ------------------------------------------------------------------------------


def expand_path(word):
    """The argparse type of a flag that names a file or folder: ~ and ~user are homes.

    An empty word is refused. A model's hub name stays as it is.
    """
    if not word:
        raise argparse.ArgumentTypeError(
            "expected the name of a file or folder, found an empty one: give one"
        )
    expanded = os.path.expanduser(word)
    if word.startswith("~") and expanded == word:
        raise argparse.ArgumentTypeError(
            f"expected a home at the start of {word}, found no such user here: give the whole "
            f"path, or ./{word} for a name that starts with ~"
        )
    return expanded


def expand_path_or_none(word):
    """The type of a path that may be left out: an empty word is the same as no flag."""
    return word and expand_path(word)


def follow(path):
    """What a path names in the end: of a symbolic link its target, which may not be there yet."""
    path = Path(path)
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise UserError(
            f"{path} is a symbolic link that leads in a circle: remove it, or let it "
            "lead to a place"
        )
    return target


def make_folder(folder):
    """Make a folder and those above it, where they are not there; what a link to it leads to."""
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)


def make_folders(args, **folders):
    """Make the folder that each flag needs, where it has a value; else a UserError."""
    for name, folder in folders.items():
        try:
            if folder:
                make_folder(folder)
        except OSError as error:
            raise UserError(
                f"--{name} {getattr(args, name)} cannot be used, as {error.filename} "
                f"cannot be made a folder ({error.strerror}): name another"
            ) from None


@contextlib.contextmanager
def lock_output_dir(output_dir):
    """Hold the output folder for this run; a second run in the same folder is refused."""
    if not is_main_process():
        yield
        return
    import filelock

    make_folder(output_dir)
    try:
        with filelock.FileLock(Path(output_dir) / ".lock", timeout=0):
            for leftover in Path(output_dir).glob(".*.tmp*"):
                discard(leftover)  # of a killed run: never whole, never read
            yield
    except filelock.Timeout:
        raise UserError(
            f"the output folder {output_dir} is in use by another run that is still "
            "going: wait for it or name another --output_dir"
        ) from None


# ---- whole files ---------------------------------------------------------------------------------


@contextlib.contextmanager
def naming(path, temporary=None):
    """Have an error of the disk name the file that was to be written, not a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE:
            name = os.fsdecode(error.filename or path)
            error.filename = name.replace(str(temporary), str(path)) if temporary else name
        raise
    except Exception as error:
        found = re.search(r"os error (\d+)", str(error))
        if type(error).__name__ != "SafetensorError" or not found:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def atomic_path(path, keep=True):
    """Yield a temporary path beside `path`, to be written as a file or a folder.

    On success it takes path's name. A process killed at any moment leaves the old content, the new
    or (of a folder) none, never a part of one. A symbolic link stays: what it leads to is written.
    A device or a pipe is written as it comes. keep: False for a rehearsal, of which nothing stays.
    """
    given = Path(path)
    if given.exists() and not (given.is_file() or given.is_dir()):
        with naming(given):
            yield given
        return
    path = follow(given)
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    with naming(given, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        discard_leftovers(path)
        try:
            yield temporary
            if not keep:
                return
            for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
                if file.is_file():
                    make_durable(file)
            if path.is_dir() and not temporary.is_dir():
                raise UserError(
                    f"{path} is a folder, but a file is to be written there: name a file"
                )
            if path.is_dir():
                remove_folder(path)
            os.replace(temporary, path)
        finally:
            discard(temporary)


def make_durable(file):
    """Have a file on the disk, and readable: safetensors writes for its owner alone."""
    file.chmod(0o666 & ~UMASK)
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def discard_leftovers(path):
    """Delete what killed processes left of writing `path`.

    This machine's, whose process is gone; another machine's after a day.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        import psutil

        with contextlib.suppress(OSError):  # another process may be doing the same
            ending = leftover.name.removeprefix(f".{path.name}.")
            writer = re.fullmatch(r"(?:(\w+)-)?(\d+)\.tmp(-old)?", ending)
            gone = writer and writer[1] == HOST and not psutil.pid_exists(int(writer[2]))
            if writer and (gone or time.time() - leftover.lstat().st_mtime > DAY):
                discard(leftover)


def discard(path):
    """Delete a file or folder that nobody reads; of a symbolic link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path):
    """Delete a folder, under another name first: a half-deleted one is never taken for a whole one.

    Of a symbolic link the link alone goes: what it leads to lies outside the run.
    """
    if not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp-old")
        os.replace(path, doomed)
        path = doomed
    discard(path)


def move(file, path):
    """Give a whole file the name `path`; through a link, to another file system too."""
    try:
        os.replace(file, follow(path))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)
        file.unlink()


def write_json(path, content):
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, default=str)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path):
    """The content of a JSON file, {} where there is none."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete the folder it is in, or name another one"
        ) from None
    return found


def sha256_of_file(path):
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksum(tensors, notes):
    """A CRC of what a safetensors file holds, its tensors and a text.

    safetensors itself notices no changed byte.
    """
    crc = zlib.crc32(notes.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].numpy(), crc)
    return str(crc)
