"""Event loops that stay silent once they are closed, because a failing storage of checkpoints still reports to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Loop(asyncio.SelectorEventLoop):
    """Drops what is handed to it from another thread once it is closed.

    The storage below orbax reports each file of a checkpoint from threads of its own. The first error ends the loop,
    and the answers after it would each print a traceback, past every hook of Python.
    """

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, **context: Any) -> Any:
        try:
            return super().call_soon_threadsafe(callback, *args, **context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Drops the errors of further files, because the first one has been raised and the run reports it."""


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes these loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return Loop()


def install() -> None:
    """Makes all further event loops of this process such loops."""
    asyncio.set_event_loop_policy(Policy())
