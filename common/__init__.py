"""What all other code builds on: users' errors, how a script ends, paths, and whole files.

It imports nothing else of this project, and other packages only inside functions, so that --help
does not wait for them. "Refuse" in a docstring means: raise a UserError.
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
    readable,
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
    "readable",
    "remove_folder",
    "say",
    "sha256_of_file",
    "write_json",
]
