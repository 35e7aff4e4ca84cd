"""Signals, and readers that leave.

A run that is stopped saves its state and says what it has achieved; within a long computation, or where it is asked to
stop a second time, it ends at once with one sentence. A pipe that closes is no error.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from types import FrameType
from typing import NoReturn

PIPE_CLOSED = 141  # the exit code that a shell shows for a program that SIGPIPE ended
INTERRUPTED = 130
GRACE = 10.0  # seconds until Python must have handled a signal, because compiled code may run for minutes
TWICE = 1.0  # seconds after which a signal is a second wish: `timeout` and schedulers signal one process twice at once
STOPS = (signal.SIGINT, signal.SIGTERM)  # handled as Ctrl-C, because schedulers stop jobs by SIGTERM
HANGUP = getattr(signal, "SIGHUP", None)  # a terminal that closes, which `nohup` ignores; Windows has none

_heard = threading.Event()  # Python has handled the last signal
_put_off = threading.Event()
_asked = threading.Event()  # a signal has come; stays set, so that `heed` can raise again
_last_words = [""]


def watch() -> None:
    """Turns the signals into KeyboardInterrupt. Python runs a handler only between two of its own instructions, so a
    thread watches too: it ends the process where a computation does not return within `GRACE` seconds, and at a second
    signal. What was saved before stays, because files are written whole."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    stops = {*STOPS, HANGUP} if HANGUP and signal.getsignal(HANGUP) is signal.SIG_DFL else set(STOPS)
    for stop in stops:
        signal.signal(stop, _interrupt)
    threading.Thread(target=_guard, args=(reading, stops), daemon=True, name="interrupts").start()


def heed_no_more() -> None:
    """Ignores further signals, because the process is about to end and a second sentence would say the same."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)


def last_words(text: str) -> None:
    """What to do next, printed where the watching thread ends the process."""
    _last_words[0] = text


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises for the first signal alone: a second one would break off the saving that the first has begun, and the
    watching thread decides whether it is another wish."""
    again = _asked.is_set()
    _heard.set()
    _asked.set()
    if not _put_off.is_set() and not again:
        raise KeyboardInterrupt


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """A signal within the block is heeded at its end, because compiled modules that are interrupted during their import
    may crash."""
    _put_off.set()
    try:
        yield
    finally:
        _put_off.clear()
    heed()


def heed() -> None:
    """KeyboardInterrupt where a signal came and the run goes on all the same, because the exception was lost: Python
    drops those that are raised in a destructor or in a callback of compiled code."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _guard(reading: int, stops: Collection[int]) -> None:
    first = math.inf
    while True:
        received = os.read(reading, 1)
        if not received or received[0] not in stops:
            continue
        now = time.monotonic()
        if now - first > TWICE:
            leave("stopped at once, at the second signal")
        if first == math.inf:
            first = now
            threading.Thread(target=_limit, daemon=True, name="limit of an interrupt").start()


def _limit() -> None:
    """Says after a while how to leave at once, and ends the process where Python does not handle the signal."""
    if not _heard.wait(TWICE):
        told = "stopping when the computation returns; Ctrl-C again leaves at once."
        print(f"bilevel: {told}", file=sys.stderr, flush=True)
        if not _heard.wait(GRACE - TWICE):
            leave("interrupted within a computation that does not stop")


def leave(why: str) -> NoReturn:
    """Ends the process at once with one sentence: why, and what to do next."""
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"bilevel: {'; '.join(one for one in (why, _last_words[0]) if one)}", file=sys.stderr, flush=True)
    quit_at_once(INTERRUPTED)


def quit_at_once(code: int) -> NoReturn:
    """Ends the process without the interpreter's clean-up, because a second Ctrl-C there would print a traceback for
    each waiting thread."""
    with contextlib.suppress(OSError):  # the terminal is gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def leave_reader() -> NoReturn:
    """Ends the process in silence where the reader of its answer has closed the pipe, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(PIPE_CLOSED)
