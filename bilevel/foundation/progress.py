"""How far a long computation is: it says so itself, and whoever listens shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Thing = TypeVar("Thing")
Hearer = Callable[[str, int, int], None]  # of what, how many are done, and of how many

_hearer: ContextVar[Hearer | None] = ContextVar("hearer", default=None)


@contextmanager
def heard_by(hearer: Hearer) -> Iterator[None]:
    """Within the block, ``hearer`` is told how far each loop over `followed` things is."""
    before = _hearer.set(hearer)
    try:
        yield
    finally:
        _hearer.reset(before)


def followed(things: Sequence[Thing], what: str) -> Iterator[Thing]:
    """The things, one after the other; whoever listens is told before each how many are done. Of loops within each
    other the innermost is heard last.

    >>> with heard_by(lambda what, done, total: print(f"{what} {done}/{total}")):
    ...     squares = [penalty**2 for penalty in followed([1, 2], "penalties")]
    penalties 0/2
    penalties 1/2
    penalties 2/2
    """
    for done, thing in enumerate(things):
        tell(what, done, len(things))
        yield thing
    tell(what, len(things), len(things))


def tell(what: str, done: int, total: int) -> None:
    """Tells whoever listens."""
    hearer = _hearer.get()
    if hearer is not None:
        hearer(what, done, total)
