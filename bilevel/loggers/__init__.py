"""Where metrics go: a file of JSON lines, the terminal, W&B."""

from bilevel.foundation.progress import followed
from bilevel.loggers.base import Logger, Run
from bilevel.loggers.console import Console
from bilevel.loggers.json_lines import JsonLines, read_json_lines
from bilevel.loggers.weights_and_biases import WandB

__all__ = ["Console", "JsonLines", "Logger", "Run", "WandB", "followed", "read_json_lines"]
