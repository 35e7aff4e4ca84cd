"""An interrupt that Python drops is asked for again."""

import contextlib

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
        with pytest.raises(KeyboardInterrupt):  # at once again
            interrupts._interrupt(2, None)
    finally:
        interrupts._asked.clear()
        interrupts._heard.clear()
