"""``bilevel --help``: what fits a screen; the lists are at ``command=list``."""

from __future__ import annotations

from bilevel.cli.choices import files, options

WIDTH = 118
TEXT = """\
bilevel tunes hyperparameters by the derivative of the validation loss through the solution of the inner problem.

  bilevel                                              the default task; ends with what it achieved and a report
  bilevel task=logistic engine=unrolled trainer.steps=50 logger=wandb output=DIR
  bilevel experiment=paper/precision                   an experiment of the paper
  bilevel -m task=ridge,lasso engine=implicit,one_step    a sweep; ends with a table, best first
  bilevel task._target_=mine.task                      your own: a function in mine.py that returns a bl.Task
  bilevel resume=DIR            goes on with a run        bilevel fork=DIR            starts from what it found
  bilevel command=new NAME      writes a task of your own, with its settings and a test
  bilevel command=list tasks    what there is: tasks, engines, solvers, optimizers, schedules, data, experiments
  bilevel command=report DIR... one HTML file on runs     bilevel command=watch DIR   the same while they last
  bilevel command=check task=lasso    every engine against the truth
  bilevel command=doctor DIR          why a run went wrong, and what cures it
  bilevel command=data                which data sets are found, and how to get the others

Choose one of each group with GROUP=NAME:

{groups}

Set any value with NAME=VALUE, as in trainer.steps=50 optimizer.learning_rate=0.3 seed=1.
--cfg job prints all settings of a run without running it; --hydra-help explains sweeps and further flags;
eval "$(bilevel --shell-completion install=bash)" completes names in bash, install=zsh in zsh;
bilevel --shell-completion install=fish | source completes them in fish.
"""
SHOWN = ("task", "engine", "solver", "optimizer", "schedule", "logger", "experiment", "data", "trainer")


def text() -> str:
    """The help, with the groups and as many of their names as fit a line."""
    return TEXT.format(groups="\n".join(line(group) for group in SHOWN))


def line(group: str) -> str:
    """A group and its names, those with a file of their own first; cut where the line ends.

    >>> line("logger")
    '  logger: console, jsonl, none, wandb'
    """
    own = [name for name in files(group) if name not in ("own", "default")]
    names = [*own, *(name for name in options(group) if name not in own and name not in ("own", "default"))]
    names = names or ["default"]
    kept = list(names)
    while len(", ".join(kept)) + len(group) > WIDTH - 22 and len(kept) > 1:
        kept.pop()
    left = len(names) - len(kept)
    return f"  {group}: {', '.join(kept)}" + (f", and {left} more" if left else "")
