"""The command line of a script that starts runs: its own flags, then --, then the runs' flags."""

import argparse
import re
import sys

from common import UserError, expand_path_or_none
from training.own_flags import OWN_FILES


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UserError for a mistake, and takes the runs' flags after --.

    doc: the text of --help. prog: the script as the user calls it. usage: its own arguments.
    own_files: whether the script takes files of the user's own; other scripts refuse their flags.
    """

    def __init__(self, doc, prog, usage, own_files=False):
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage} [-- FLAGS OF EVERY RUN]",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.own_files = own_files
        # for flags without a type, so that ~ is expanded in every path
        self.register("type", None, expand_path_or_none)

    def read(self, argv=None):
        """The parsed arguments; `extra` is the list of the words after --.

        argv: the words of the command line, by default sys.argv[1:]. Without any word it prints the
        help and exits.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        if not words:
            self.print_help()
            raise SystemExit(1)
        if not self.own_files:
            self.refuse_own_files(words)
        at = words.index("--") if "--" in words else len(words)
        args, rest = self.parse_known_args(words[:at])
        if rest:
            raise UserError(
                f"{rest[0]} is no flag of {self.prog}: give flags of the training scripts after --"
            )
        args.extra = words[at + 1 :]
        return args

    def refuse_own_files(self, words):
        """Refuse flags for the user's own files, before or after --: the script is for GLUE."""
        own = {f"--{flag.name}" for flag in OWN_FILES}
        for name in (word.partition("=")[0] for word in words):
            if name in own:
                raise UserError(
                    f"{name} is for files of your own, but {self.prog} runs tasks of GLUE only: "
                    "run your commands with scripts/sweep"
                )

    def error(self, message):
        if found := re.fullmatch(r"argument (\S+): expected .*", message):
            message = f"{found[1]} needs a value"
        raise UserError(f"{message} (see {self.prog} --help)")
