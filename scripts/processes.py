"""Other programs that this one starts, several at a time, and that end before it does.

The main thread waits, as only it hears signals; other threads start processes and wait for them.
Told to end by Ctrl-C, SIGTERM or SIGHUP, this program tells its processes, which may save first.
"""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import threading
import time

import common
from common import say, termination

PATIENCE = {signal.SIGTERM: 25}  # seconds in which a run saves before a harder signal; else 10
STOPPED = 130  # the exit code of a program that was told to end


class Stopped(Exception):
    """This program is ending: no process is started any more, and none has failed."""


class Processes:
    """What this program has started and what still goes on, each the leader of a process group.

    So Ctrl-C in a terminal reaches this program alone, which ends the others in its own order, with
    all that they have started. Their session is this program's: who ends that ends them, too.
    """

    def __init__(self):
        self.lock, self.running, self.stopping = threading.Lock(), set(), False

    def run(self, words, **how):
        """Start a command and wait for it. how: of subprocess.Popen.

        Returns its exit code as a shell tells it, 128 + N of signal N, and what it wrote to a PIPE.
        """
        with self.lock:
            if self.stopping:
                raise Stopped
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0, **how)
            self.running.add(process.pid)
        written, _ = process.communicate()
        with self.lock:
            self.running.discard(process.pid)
            if self.stopping:
                raise Stopped
        code = process.returncode
        return (code if code >= 0 else 128 - code), written

    def stop(self, told):
        """Tell all to end, ever harder, until they have. told: the exception that ends us."""
        with self.lock:
            if self.stopping:
                return
            self.stopping, groups = True, set(self.running)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            termination.hold()
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]
        if isinstance(told, KeyboardInterrupt):
            numbers[:2] = numbers[1::-1]
        for number in numbers:
            groups = {group for group in groups if reach(group, number)}
            until = time.monotonic() + PATIENCE.get(number, 10)
            while groups and time.monotonic() < until:
                time.sleep(0.1)
                groups = {group for group in groups if reach(group, 0)}


def reach(group, number):
    """Send a signal to a process group, 0 for none; False where nobody is left in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


processes = Processes()


def at_once(calls):
    """The results of functions that are called at the same time, in their order.

    Where one fails, or this program is told to end, all processes end before the error goes on.
    """
    pool = concurrent.futures.ThreadPoolExecutor(max(1, len(calls)))
    try:  # signals are heard by the main thread alone, which only waits here
        return [future.result() for future in [pool.submit(call) for call in calls]]
    except BaseException as told:
        processes.stop(told)
        raise
    finally:
        pool.shutdown()


def call(words, **how):
    """Run a command that is no run of a sweep; returns what it wrote to a PIPE.

    Where it fails, which it has explained, this program ends with its exit code.
    """
    ((code, written),) = at_once([lambda: processes.run(words, **how)])
    if code:
        raise SystemExit(code)
    return written


def hear_hangups():
    """Take SIGHUP, of a terminal that is closed, for SIGTERM; but not under nohup."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def cli(main):
    """common.cli for a program that starts others: told to end, it says so once they have ended."""

    def run(argv):
        hear_hangups()
        try:
            return main(argv)
        except (KeyboardInterrupt, termination.Terminated):
            say("stopped; the same command goes on")
            return STOPPED

    return common.cli(run)
