"""Signals, and readers that leave.

A run that is stopped saves its state and ends with one sentence, even within a long computation. A pipe that closes is
no error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import NoReturn

PIPE_CLOSED = 141  # the exit code that a shell shows for a program that SIGPIPE ended
INTERRUPTED = 130
GRACE = 10.0  # seconds until Python must have handled a signal, because compiled code may run for minutes
STOPS = (signal.SIGINT, signal.SIGTERM)  # handled as Ctrl-C, because schedulers stop jobs by SIGTERM
HANGUP = getattr(signal, "SIGHUP", None)  # a terminal that closes, which `nohup` ignores; Windows has none

_heard = threading.Event()  # Python has handled the last signal
_put_off = threading.Event()
_asked = threading.Event()  # a signal has come; stays set, so that `heed` can raise again
_last_words = ["interrupted"]


def watch() -> None:
    """Turns the signals into KeyboardInterrupt. Python runs a handler only between two of its own instructions, so a
    thread watches too: where a computation does not return within `GRACE` seconds, it ends the process."""
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
    """The sentence printed where the watching thread ends the process, because the computation does not return."""
    _last_words[0] = text


def _interrupt(number: int, frame: FrameType | None) -> None:
    _heard.set()
    _asked.set()
    if not _put_off.is_set():
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
    while True:
        received = os.read(reading, 1)
        if received and received[0] in stops:
            if not _heard.wait(GRACE):
                print(f"bilevel: {_last_words[0]}", file=sys.stderr, flush=True)
                quit_at_once(INTERRUPTED)
            _heard.clear()


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
