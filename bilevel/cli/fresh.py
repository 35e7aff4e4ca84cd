"""``command=new NAME``: a first task of the user's, with its settings and its test; it runs at once."""

from __future__ import annotations

import keyword
from pathlib import Path

from bilevel.cli.choices import options
from bilevel.cli.folders import unusable
from bilevel.cli.sentences import SettingsError

TASK = '''"""A bilevel task: {name}. Run it with

    bilevel --config-dir settings task={name}
"""

import jax.numpy as jnp
import numpy as np

import bilevel as bl


def {name}(*, features: int = 20, noise: float = 1.0, seed: int = 0) -> bl.Task:
    """A penalty for each feature of a linear regression, tuned on validation data.

    The arguments are the settings of the task: task.features=30. The run's seed arrives as ``seed``.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, features))
    y = x[:, :3].sum(axis=1) + noise * rng.normal(size=300)
    train, validation, test = [(x[part], y[part]) for part in np.split(np.arange(300), 3)]

    # The inner problem: what is solved for given hyperparameters. hparams and batch may be any pytrees: with a second
    # hyperparameter, say {{"penalty": ..., "centre": ...}}, change `loss`, `init_hparams` and `natural`.
    def error(params, hparams, batch):
        inputs, targets = batch
        return 0.5 * jnp.mean((inputs @ params - targets) ** 2)

    def loss(params, hparams, batch):
        return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    # Results on data that nothing is chosen on; "stop/loss" here would choose the best step.
    def evaluate(params, hparams):
        return {{"test/loss": error(params, hparams, test)}}

    # What the result is compared with, computed once.
    def baselines():
        inputs, targets = train
        unpenalised = np.linalg.lstsq(inputs, targets, rcond=None)[0]
        return {{"baseline/test/loss": error(unpenalised, None, test)}}

    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=lambda key, hparams: jnp.zeros(features)),
        outer_loss=error,  # what the hyperparameters minimise, at the inner solution
        init_hparams=lambda key: jnp.full(features, -2.0),
        batches=bl.full_batch(train, validation),  # (inner batch, outer batch), the same at every step
        evaluate=evaluate,
        baselines=baselines,
        headline=bl.Headline("test/loss", against={{"baseline/test/loss": "without a penalty"}}),
        natural=lambda hparams: {{"penalty": np.exp(hparams)}},  # for the report: by name, on a scale that people read
    )
'''
SETTINGS = """# bilevel --config-dir settings task={name} task.features=30
_target_: {name}.{name}
features: 20
noise: 1.0
"""
TEST = '''"""The derivative of the task {name} is right. Run it with ``pytest test_{name}.py``."""

import jax
import jax.numpy as jnp
import numpy as np
from {name} import {name}

import bilevel as bl


def test_the_hypergradient_is_the_derivative():
    with jax.enable_x64(True):
        task = {name}(features=5)
        hparams, change = jnp.full(5, -1.0), 1e-5
        value = lambda shift: bl.hypergradient(task, hparams + shift, bl.Implicit())[0]
        _, grad, report = bl.hypergradient(task, hparams, bl.Implicit())
        directions = change * jnp.eye(5)
        differences = [(value(one) - value(-one)) / (2 * change) for one in directions]
        np.testing.assert_allclose(grad, differences, rtol=1e-4, atol=1e-8)
        assert bool(report.status.ok)
'''


def new(words: list[str], settings: dict[str, str]) -> None:
    """Writes NAME.py, settings/task/NAME.yaml and test_NAME.py here; a file that is there is never overwritten."""
    if len(words) != 1 or not words[0].isidentifier() or keyword.iskeyword(words[0]):
        raise SettingsError("command=new needs one name that Python can import: bilevel command=new shrinkage")
    name = words[0]
    texts = {
        Path(f"{name}.py"): TASK,
        Path("settings/task") / f"{name}.yaml": SETTINGS,
        Path(f"test_{name}.py"): TEST,
    }
    if name in options("task"):
        raise SettingsError(f"task={name} ships with bilevel, and would be run instead of yours: choose another name.")
    for place in {path.parent for path in texts}:
        if why := unusable(place):
            raise SettingsError(f"{why}: run command=new in a folder of yours.")
    if taken := [path for path in texts if path.exists()]:
        raise SettingsError(f"{taken[0]} is there already, and command=new overwrites nothing: choose another name.")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name), encoding="utf-8")
        print(path)
    print(f"run it:   bilevel --config-dir settings task={name}\ntest it:  pytest test_{name}.py")
