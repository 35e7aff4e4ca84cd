"""The command line ``bilevel``. The one door to hydra and omegaconf."""

from bilevel.cli.main import main

__all__ = ["main"]
