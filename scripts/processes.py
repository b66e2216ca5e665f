"""Programs that this one starts, several at a time, and that end before it does.

The main thread only waits, as only the main thread hears signals; other threads start the processes
and wait for them. When Ctrl-C, SIGTERM or SIGHUP tells this program to end, it passes that on to
its processes, which may save first.
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

PATIENCE = {signal.SIGTERM: 25}  # seconds to save in, before a harder signal; 10 for other signals
STOPPED = 130  # the exit code of a program that was told to end


class Stopped(Exception):
    """This program is ending, so it starts no more processes; it does not mean that one failed."""


class Processes:
    """The processes that this program has started and that still run; each leads a process group.

    So Ctrl-C in a terminal reaches only this program, which then ends the groups in its own order,
    each with all that it has started. All stay in this program's session: whoever ends the session
    ends them, too.
    """

    def __init__(self):
        self.lock, self.running, self.stopping = threading.Lock(), set(), False

    def run(self, words, **how):
        """Start a command and wait for it. how: arguments of subprocess.Popen.

        Returns (exit code, output). The code is as a shell tells it, 128 + N if signal N killed the
        command; the output is what it wrote to stdout, None unless stdout=PIPE. Raises Stopped when
        this program is ending.
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
        """Send ever harder signals until all have ended. told: the exception that ends us."""
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
    """Send a signal to a process group, 0 only to look; False if the group is empty."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


processes = Processes()


def at_once(calls):
    """Call functions at the same time, each in a thread; returns their results in order.

    If one fails, or this program is told to end, all processes are ended before the error goes on.
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
    """Run a command outside a sweep; returns what it wrote to stdout if stdout=PIPE, else None.

    If the command fails, it has said why, and this program ends with its exit code.
    """
    ((code, written),) = at_once([lambda: processes.run(words, **how)])
    if code:
        raise SystemExit(code)
    return written


def hear_hangups():
    """Treat SIGHUP, which a closed terminal sends, as SIGTERM; under nohup ignore it as before."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def cli(main):
    """common.cli for a program that starts others: it says that it stops after they have ended."""

    def run(argv):
        hear_hangups()
        try:
            return main(argv)
        except (KeyboardInterrupt, termination.Terminated):
            say("stopped; the same command goes on")
            return STOPPED

    return common.cli(run)
