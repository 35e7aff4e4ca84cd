"""The command line ``bilevel``. The one door to hydra and omegaconf."""

from __future__ import annotations

import os
import sys

from bilevel.cli.interrupts import INTERRUPTED, heed_no_more, leave_reader, quit_at_once, watch


def main() -> None:
    """The command ``bilevel``. Exits with 0, 1 (the run failed), 2 (wrong settings) or 130 (Ctrl-C).

    No large package is imported before this function, so that Ctrl-C ends in one sentence from the first moment on.
    """
    watch()
    if "debug=true" not in sys.argv:  # alarms of the compiler, as of slow compilation, are no errors of the user
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):  # answered without Hydra, which would print all settings
            from bilevel.cli.help import text

            print(text(), end="")
        else:
            from bilevel.cli.entry import run

            run()
        sys.stdout.flush()
    except BrokenPipeError:
        leave_reader()
    except KeyboardInterrupt:
        heed_no_more()
        print("bilevel: interrupted", file=sys.stderr, flush=True)
        quit_at_once(INTERRUPTED)
