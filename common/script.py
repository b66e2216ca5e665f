"""How a script ends and what it prints: one line for a user's mistake, a full disk, a signal."""

import errno
import os
import sys
import threading

from common.termination import CODE, Terminated, ear, listening

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS)


class UserError(Exception):
    """A mistake that the user can mend.

    Its text is one sentence: what was expected, what was found, where, and what to do.
    """


def cli(
    main, argv=None, interrupted="interrupted; the same command goes on from what was saved last"
):
    """Run a script's main. Returns the exit code.

    A user's mistake, a full disk or a signal becomes one line on stderr. interrupted: the line for
    Ctrl-C; for SIGTERM "terminated" replaces its first word.
    """
    write_what_can_be()
    threading.excepthook = report_thread_error
    try:
        with listening():
            return run_main(main, argv, interrupted)
    except Terminated as error:
        message = str(error) or interrupted.replace("interrupted", "terminated", 1)
    except RuntimeError:
        # a collective operation fails if another process, told to end, has left the group first
        if not ear.told or "RANK" not in os.environ:
            raise
        message = interrupted.replace("interrupted", "terminated", 1)
    say(message)  # only now, as progress bars end their lines when the exception is gone
    return CODE


def run_main(main, argv, interrupted):
    """The exit code of a script's main; its errors become one line on stderr."""
    try:
        code = main(argv) or 0
        if sys.stdout:  # None if the program was started without one
            sys.stdout.flush()
        return code
    except UserError as error:
        message, code = f"error: {error}", 1
    except BrokenPipeError:  # the reader of a table has enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        message = (
            f"error: {error.filename or 'a file'} cannot be written ({error.strerror}); "
            "what was there before is untouched: mend that or name another folder, and run "
            "again"
        )
        code = 1
    except KeyboardInterrupt:
        message, code = interrupted, 130
    if is_main_process():
        print(message, file=sys.stderr)
    return code


def write_what_can_be():
    """Let stdout and stderr write characters that their encoding lacks (α in ASCII) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        errors = getattr(stream, "errors", None)
        fails = errors == "strict" or (errors == "surrogateescape" and stream.encoding != "utf-8")
        if fails and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def report_thread_error(problem):
    """Print an error that ended a thread, unless it is an error of the disk.

    The disk's errors end TensorBoard's thread, too, but the main thread reports them.
    """
    if getattr(problem.exc_value, "errno", None) not in UNWRITABLE:
        threading.__excepthook__(problem)


def is_main_process():
    """True in the first process of a run, by RANK, which torchrun and accelerate launch set."""
    return os.environ.get("RANK", "0") == "0"


def say(message):
    """Print one line on stderr, from the main process only."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def progress(*args, **kwargs):
    """A tqdm bar of the main process; in a log file it is a line every 30 s, not ten a second."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(
        *args, **kwargs, mininterval=interval, maxinterval=interval, disable=not is_main_process()
    )
