"""An interrupt that Python drops is asked for again; a second one ends the process at once."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from bilevel.cli import interrupts


def test_a_lost_interrupt_is_asked_for_again():
    interrupts.heed()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            interrupts._interrupt(2, None)
        with pytest.raises(KeyboardInterrupt):
            interrupts.heed()
    finally:
        interrupts._asked.clear()
        interrupts._heard.clear()


def test_a_signal_during_imports_is_heeded_after_them():
    reached = []
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.put_off():
            interrupts._interrupt(2, None)
            reached.append("the end of the imports")
        assert reached
        interrupts._asked.clear()
        with pytest.raises(KeyboardInterrupt):  # at once again
            interrupts._interrupt(2, None)
    finally:
        interrupts._asked.clear()
        interrupts._heard.clear()


ENDING = """
import sys, time
from bilevel.cli import interrupts

interrupts.watch()
interrupts.last_words("this goes on")
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("saving", flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
"""


@pytest.fixture
def ending():
    """A process that saves for some seconds after the first signal, at the moment when it begins to."""
    started = []

    def start(seconds):
        command = [sys.executable, "-c", ENDING, str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "saving\n"
        return process

    yield start
    for process in started:
        process.kill()


def test_a_second_interrupt_leaves_at_once(ending):
    process = ending(60)
    time.sleep(interrupts.TWICE + 0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (interrupts.INTERRUPTED, "")
    assert err == "bilevel: stopped at once, at the second signal; this goes on\n"


def test_a_signal_that_comes_twice_at_once_is_one(ending):
    process = ending(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=50) == ("saved\n", "")
