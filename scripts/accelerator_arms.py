"""One arm of accelerator.py, in a process of its own, on the device that JAX takes.

    python scripts/accelerator_arms.py ARM FOLDER [--seconds 10] [--small]

Writes FOLDER/found.json (the device, the seconds of the first call, in which everything is compiled, and of each
later one) and FOLDER/found.npz (what was computed). A missing package or data set is one sentence on stderr and exit
status 1.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SERVED = ROOT / "experiments" / "peers" / "served"
STEPS, MOST = 8, 50  # outer steps of a task, calls of a program
FEW, MANY, SMALL = (64, 50, 50), (1024, 10, 10), (4, 6, 6)  # programs, unknowns, inequalities
SVM, SMALL_SVM = (700, 1000), (60, 20)  # samples, features


class Found(NamedTuple):
    """Seconds of the first call and of each later one, and what was computed."""

    first: float
    later: list[float]
    values: Mapping[str, Any]


class Arm(NamedTuple):
    """What is run, in words, and how: ``run(seconds, small)``."""

    words: str
    run: Callable[[float, bool], Found]


def fitted(words: tuple[str, ...], seconds: float, small: bool) -> Found:
    """The first outer steps of ``bilevel WORDS``, with ``small`` of the instance that ``command=check`` takes. The
    values are the hyperparameters after them and the losses on the way."""
    import jax
    import optax
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig, OmegaConf

    import bilevel as bl
    from bilevel.cli.choices import configs
    from bilevel.cli.generated import register
    from bilevel.cli.train import made
    from bilevel.task import PRECISIONS

    register(configs())
    with initialize_config_dir(str(configs()), version_base="1.3"):
        config = compose("config", list(words))
    if small:
        merged = OmegaConf.merge(config, {"task": config.get("reduced") or {}})
        assert isinstance(merged, DictConfig)
        config = merged
    with jax.enable_x64(PRECISIONS[config.task.precision]):
        task = made(config, "task", bl.Task)
        # Baselines and tests at the end are no part of a step.
        task = replace(task, baselines=lambda: {}, assess=lambda params, hparams: {})
        optimizer, engine = made(config, "optimizer", optax.GradientTransformation), made(config, "engine", bl.Engine)
    trainer = bl.Trainer(optimizer=optimizer, engine=engine, steps=3 if small else STEPS)
    result = trainer.fit(task, key=jax.random.key(config.seed))
    spent = [line["seconds"] for line in result.metrics]
    hparams = [np.ravel(leaf) for leaf in jax.tree.leaves(result.last_hparams)]
    losses = [line["outer/loss"] for line in result.metrics]
    return Found(spent[0], spent[1:], {"hparams": np.concatenate(hparams), "losses": losses})


def repeated(prepare: Callable[[bool], Callable[[], Mapping[str, Any]]], seconds: float, small: bool) -> Found:
    """Calls of a program for so many seconds; what it returns is fetched within the time."""
    import jax

    jax.config.update("jax_enable_x64", True)
    call = prepare(small)
    spent: list[float] = []
    values: Mapping[str, Any] = {}
    while not spent or (sum(spent[1:]) < seconds and len(spent) < (3 if small else MOST)):
        began = time.perf_counter()
        values = {name: np.asarray(value) for name, value in call().items()}
        spent.append(time.perf_counter() - began)
    numbers = {name: value for name, value in values.items() if np.issubdtype(value.dtype, np.floating)}  # no counts
    return Found(spent[0], spent[1:] or spent, numbers)


def programs(shape: tuple[int, int, int], small: bool) -> Callable[[], Mapping[str, Any]]:
    """Quadratic programs and the gradient in all of their data."""
    from experiments.peers import qp

    return qp.layer(qp.data(*(SMALL if small else shape)))


def vector_machine(form: str, small: bool) -> Callable[[], Mapping[str, Any]]:
    """The hypergradient of the penalty of a multiclass support vector machine."""
    from experiments.peers import svm

    return svm.hypergradient(svm.task(svm.data(*(SMALL_SVM if small else SVM)), form, 1e-5), 1e-5)


def peer(
    problem: str, package: str, setting: str, shape: tuple[int, ...], small: bool
) -> Callable[[], Mapping[str, Any]]:
    """The same problem by another package, as the benchmarks of experiments/peers state it."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed here: pip install {package}.")
    sys.path.insert(0, str(SERVED))
    arms = importlib.import_module(f"{problem}_{package}").arms()
    data = importlib.import_module(f"experiments.peers.{problem}").data
    return arms[setting](data(*((SMALL if problem == "qp" else SMALL_SVM) if small else shape)))


def task(*words: str) -> Arm:
    return Arm(" ".join(("bilevel", *words)), partial(fitted, words))


def quadratic(shape: tuple[int, int, int], package: str = "", setting: str = "") -> Arm:
    prepare = partial(peer, "qp", package, setting, shape) if package else partial(programs, shape)
    by = f"{package} ({setting})" if package else "bl.quadratic_program"
    what = f"{shape[0]:,} programs of {shape[1]} unknowns, with their gradient"
    return Arm(f"{what}, by {by}", partial(repeated, prepare))


def machine(package: str = "", setting: str = "") -> Arm:
    prepare = partial(peer, "svm", package, setting, SVM) if package else partial(vector_machine, "Gram")
    by = f"{package} ({setting})" if package else "bl.Auto"
    return Arm(f"penalty of a multiclass SVM, {SVM[0]} x {SVM[1]:,}, by {by}", partial(repeated, prepare))


QPAX, OSQP, PG = "explicit, tol 1e-08, kappa 1e-08", "OSQP (cg), tol 1e-05", "PG Gram 1e-03, GMRES"
ARMS = {
    "default": task(),
    "programs": quadratic(FEW),
    "programs_qpax": quadratic(FEW, "qpax", QPAX),
    "programs_jaxopt": quadratic(FEW, "jaxopt", OSQP),
    "svm": task("task=svm"),
    "machine": machine(),
    "machine_jaxopt": machine("jaxopt", PG),
    "distillation": task("experiment=paper/distillation", "data=mnist"),
    "hyperclean_mnist": task("experiment=hpo/hyperclean"),
    "omniglot": task("experiment=meta/omniglot"),
    "many_programs": quadratic(MANY),
    "many_programs_qpax": quadratic(MANY, "qpax", QPAX),
    "many_programs_jaxopt": quadratic(MANY, "jaxopt", OSQP),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of calls of a program")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from bilevel.cli.sentences import sentence
    from experiments.peers.common import device_name

    try:
        found = ARMS[given.arm].run(given.seconds, given.small)
    except Exception as error:  # of ours or of a peer: it fills the place of the arm's row
        raise SystemExit(sentence(error)) from error
    np.savez(given.folder / "found.npz", **{name: np.asarray(value) for name, value in found.values.items()})  # type: ignore[arg-type]  # numpy types **kwds as its own flags
    told = {"device": device_name(), "first": found.first, "later": found.later}
    (given.folder / "found.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
