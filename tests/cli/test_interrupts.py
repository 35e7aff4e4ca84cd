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
