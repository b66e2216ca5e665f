"""The ground floor: errors, a script's end, places on disk, whole files.

It needs nothing of ours, and imports no package at its top, so that no --help waits for one.
"""

from common.files import (
    atomic_path,
    checksum,
    discard,
    expand_path,
    expand_path_or_none,
    follow,
    lock_output_dir,
    make_folder,
    make_folders,
    move,
    naming,
    read_json,
    remove_folder,
    sha256_of_file,
    write_json,
)
from common.script import (
    UNWRITABLE,
    UserError,
    cli,
    is_main_process,
    progress,
    say,
)

__all__ = [
    "UNWRITABLE",
    "UserError",
    "atomic_path",
    "checksum",
    "cli",
    "discard",
    "expand_path",
    "expand_path_or_none",
    "follow",
    "is_main_process",
    "lock_output_dir",
    "make_folder",
    "make_folders",
    "move",
    "naming",
    "progress",
    "read_json",
    "remove_folder",
    "say",
    "sha256_of_file",
    "write_json",
]
