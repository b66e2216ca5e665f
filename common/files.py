"""Paths, and files that are written whole or not at all, even if the process is killed or the disk
is full.
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
# part of an unfinished file's name, as several machines may share a folder
HOST = re.sub(r"\W", "_", platform.node())
UMASK = os.umask(0)
os.umask(UMASK)

# ---- places on disk ------------------------------------------------------------------------------


def expand_path(word):
    """The argparse type of a flag that names a file or folder: ~ and ~user become home folders.

    Other words, as a model's hub name, stay as they are. ArgumentTypeError for an empty word or a
    user without a home.
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
    """As expand_path, for a flag whose path may be left out: an empty word stays empty."""
    return word and expand_path(word)


def follow(path):
    """The path, or the last target of a symbolic link; it need not exist. Refuse a circle."""
    path = Path(path)
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise UserError(
            f"{path} is a symbolic link that leads in a circle: remove it, or make it lead to "
            "a file or folder"
        )
    return target


def make_folder(folder):
    """Make a folder and its parents, unless they exist; of a symbolic link, make the target."""
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)


def make_folders(args, **folders):
    """Make the folders that flags name, {flag: folder or None}; UserError if one cannot be made."""
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
    """Hold the output folder for this run; refuse a second run in the same folder."""
    if not is_main_process():
        yield
        return
    import filelock

    make_folder(output_dir)
    try:
        with filelock.FileLock(Path(output_dir) / ".lock", timeout=0):
            for leftover in Path(output_dir).glob(".*.tmp*"):
                discard(leftover)  # a killed run's unfinished file, which nobody reads
            yield
    except filelock.Timeout:
        raise UserError(
            f"the output folder {output_dir} is in use by another run that is still "
            "going: wait for it or name another --output_dir"
        ) from None


# ---- whole files ---------------------------------------------------------------------------------


@contextlib.contextmanager
def naming(path, temporary=None):
    """A context whose disk errors (OSError) name the file to be written, not a temporary one."""
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

    On success it is renamed to `path`. A process killed at any moment leaves the old content, the
    new, or (of a folder) none, never a part of it. If `path` is a symbolic link, the link stays and
    its target is written. A device or a pipe is written directly. keep: False for a rehearsal,
    after which the temporary path is deleted. Refuse a file in place of a folder.
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
    """Flush a file to the disk, with usual permissions: safetensors lets only its owner read."""
    file.chmod(0o666 & ~UMASK)
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def discard_leftovers(path):
    """Delete the temporary files of `path` that killed processes left.

    Such a file goes if its process ran on this machine and is gone, or if it is older than a day.
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
    """Delete a file or folder; of a symbolic link only the link. Errors in a folder are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path):
    """Rename a folder and then delete it, so that a half-deleted one is never taken for whole.

    Of a symbolic link only the link is deleted: its target lies outside the run.
    """
    if not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp-old")
        os.replace(path, doomed)
        path = doomed
    discard(path)


def move(file, path):
    """Rename a whole file to `path`, or to a link's target, even on another file system."""
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
    """The object in a JSON file, {} if there is no file; UserError if it is damaged."""
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


@contextlib.contextmanager
def readable(path):
    """Around the reading of a file: UserError if it may not be read, or its disk fails."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR):
            raise
        raise UserError(
            f"{path} cannot be read ({error.strerror}): mend that, or name another file"
        ) from None


def sha256_of_file(path):
    """The sha256 of a file's bytes, as hex. UserError if it may not be read."""
    with readable(path), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksum(tensors, notes):
    """A CRC-32, as text, of what a safetensors file holds: {name: tensor}, and `notes`, a text.

    safetensors itself does not notice a changed byte.
    """
    crc = zlib.crc32(notes.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].numpy(), crc)
    return str(crc)
