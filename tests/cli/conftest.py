"""The command line as a user has it: another folder, a module and settings of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.cli.choices import configs
from bilevel.cli.generated import register

CACHE = Path(__file__).resolve().parent.parent.parent / ".cache" / "jax"

MINE = """
import jax.numpy as jnp
import numpy as np

import bilevel as bl


def shrinkage(*, features: int = 4, max_steps: int = 200, tol: float = 1e-10) -> bl.Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, features))
    y = x @ rng.normal(size=features) + rng.normal(size=30)

    def error(params, hparams, batch):
        x, y = batch
        return 0.5 * jnp.mean((x @ params - y) ** 2)

    inner = bl.InnerProblem(
        loss=lambda params, hparams, batch: error(params, hparams, batch) + 0.5 * jnp.exp(hparams) * jnp.sum(params**2),
        init=lambda key, hparams: jnp.zeros(features),
        solver=bl.GradientDescent(max_steps=max_steps, tol=tol),
    )
    return bl.Task(
        inner=inner,
        outer_loss=error,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch((x[:20], y[:20]), (x[20:], y[20:])),
    )


ready = shrinkage()


def no_task():
    return 3


def broken():
    raise ZeroDivisionError("one over zero")
"""


@pytest.fixture(autouse=True, scope="session")
def generated():
    """The choices that need no file are known to Hydra, as they are to the command."""
    register(configs())


@pytest.fixture
def folder(tmp_path):
    """A folder of the user's, with a module in it."""
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture
def environment():
    """The environment of a user who keeps compiled programs where this suite does, and has not told W&B how to run."""
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    return {**kept, "BILEVEL_CACHE": str(CACHE), "PYTHONWARNINGS": "default", "HYDRA_FULL_ERROR": "0"}


@pytest.fixture
def bilevel(folder, environment):
    """Runs ``bilevel`` with some arguments in the user's folder; gives exit code, stdout and stderr."""

    def run(*arguments, **variables):
        command = [sys.executable, "-m", "bilevel", *arguments]
        return subprocess.run(command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True)

    return run
