"""Runs that do not get to their end: looked at before their first step, stopped, killed."""

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
    """Ends a run where a test has seen enough."""


def loop_of(main, arguments):
    """The Loop of a run, before its first step."""

    def stop(loop, *args, **kwargs):
        raise Stop(loop)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop) as stopped:
        patch.setattr(Loop, "run", stop)
        main(arguments)
    return stopped.value.args[0]


def interrupt_after(patch, place, name):
    """Have a function of a module interrupt its run as soon as it has done its work."""
    real = getattr(place, name)

    def work_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    patch.setattr(place, name, work_and_stop)


def stopped_at(tiny, output, *more, main=glue_with_cka_i.main):
    """A run that an exception stops right after its first checkpoint, of step 2 as a rule."""
    words = flags(tiny, output, "--save_steps", 2, *more, teacher=main is train_teacher.main)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, distill, "save_checkpoint")
        main(words)


def stopped_clustering(folder, output, *more):
    """A clustering that an exception stops right after it has saved its state."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, memory_file, "save_state")
        train_memory.main(memory_flags(folder, output, *more))


def start_until(command, output, step, **more):
    """Start a command; returns its process once the log in its folder shows a step.

    more: of subprocess.Popen.
    """
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True, start_new_session=True, **more
    )
    log = output / "train_log.jsonl"
    wait_until(lambda: log.exists() and f'"step": {step},' in log.read_text(), process, 120)
    return process


def start_and_kill(script, arguments, output, after_step):
    """Run a script in a process of its own and SIGKILL it as soon as its log shows a step."""
    command = [sys.executable, script, *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = start_until(command, output, after_step, **pipes)
    process.kill()
    process.communicate()
