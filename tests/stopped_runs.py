"""Runs that do not reach their end: stopped before their first step, interrupted, or killed."""

import subprocess
import sys

import pytest
from conftest import ROOT, flags, memory_flags, wait_until

import distill
import glue_with_cka_i
import train_memory
import train_teacher
from loop import Loop
from training import memory_file


class Stop(Exception):
    """Ends a run when a test has seen enough; its argument is what the test wants."""


def loop_of(main, arguments):
    """The Loop of a run, which is stopped before its first step."""

    def stop(loop, *args, **kwargs):
        raise Stop(loop)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop) as stopped:
        patch.setattr(Loop, "run", stop)
        main(arguments)
    return stopped.value.args[0]


def interrupt_after(patch, place, name):
    """Make the function `name` of the module `place` raise KeyboardInterrupt after its work."""
    real = getattr(place, name)

    def work_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    patch.setattr(place, name, work_and_stop)


def stopped_at(tiny, output, *more, main=glue_with_cka_i.main):
    """Start a run that KeyboardInterrupt stops after its first checkpoint, by default of step 2."""
    words = flags(tiny, output, "--save_steps", 2, *more, teacher=main is train_teacher.main)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, distill, "save_checkpoint")
        main(words)


def stopped_clustering(folder, output, *more):
    """Start a clustering that KeyboardInterrupt stops after it has first saved its state."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, memory_file, "save_state")
        train_memory.main(memory_flags(folder, output, *more))


def start_until(command, output, step, **more):
    """Start a command; returns its process once the log in its output folder shows a step.

    more: arguments of subprocess.Popen.
    """
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True, start_new_session=True, **more
    )
    log = output / "train_log.jsonl"
    wait_until(lambda: log.exists() and f'"step": {step},' in log.read_text(), process, 120)
    return process


def start_and_kill(script, arguments, output, after_step):
    """Run a script in its own process; SIGKILL it as soon as its log shows the step."""
    command = [sys.executable, script, *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = start_until(command, output, after_step, **pipes)
    process.kill()
    process.communicate()
