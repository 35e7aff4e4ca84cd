"""Run by test_devices.py in a process with 8 virtual devices: fits on one and on many, compared; prints JSON."""

import json
import re
import sys
import tempfile
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel as bl
from bilevel.training.fit import Fit

SAMPLES, FEATURES = 160, 12


def cleaning(samples: int) -> bl.Task:
    """Weights of samples of a logistic regression, one hyperparameter each."""
    x = np.random.default_rng(0).normal(size=(samples, FEATURES))
    y = (x @ np.random.default_rng(1).normal(size=FEATURES) > 0) * 1.0

    def loss(w, weight, batch):
        z = batch[0] @ w
        return jnp.mean(weight * (jnp.logaddexp(0.0, z) - batch[1] * z))

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: loss(w, jax.nn.sigmoid(h), batch) + 0.05 * w @ w,
            init=lambda key, h: jnp.zeros(FEATURES),
            solver=bl.LBFGS(),
        ),
        outer_loss=lambda w, h, batch: loss(w, 1.0, batch),
        init_hparams=lambda key: jnp.zeros(samples),
        batches=bl.full_batch((x, y), (x[::2], y[::2])),
    )


def lasso() -> bl.Task:
    """One penalty a feature; minibatches for the engine that takes them."""
    x = np.random.default_rng(0).normal(size=(64, 8))
    y = x[:, 0] - x[:, 1] + 0.1 * np.random.default_rng(1).normal(size=64)

    def error(w, h, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    return bl.Task(
        inner=bl.InnerProblem(loss=error, init=lambda key, h: jnp.zeros(8), penalty=bl.L1(weight=jnp.exp)),
        outer_loss=error,
        init_hparams=lambda key: jnp.full(8, -3.0),
        batches=bl.full_batch((x[:40], y[:40]), (x[40:], y[40:])),
    )


def fitted(task: bl.Task, mesh, engine: bl.Engine) -> dict:
    """What a fit found, whether it compiled once, and the sizes of the arrays that the devices gathered."""
    trainer = bl.Trainer(optimizer=optax.adam(0.1), steps=3, mesh=mesh, engine=engine)
    with jax.enable_x64(True), ExitStack() as stack:
        fit = Fit(trainer, task, jax.random.key(0), None, stack)
        result = fit.run(False, {})
    programs = {id(one): one for one in fit.advance._found.values()}.values()
    text = "".join((one.compiled.as_text() or "") for one in programs)
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\][^=]*? all-gather(?:-start)?\(", text)
    gathered = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
    return {
        "hparams": np.asarray(result.hparams).tolist(),
        "params": np.asarray(result.params).tolist(),
        "gradients": [line["outer/grad_norm"] for line in result.metrics],
        "compilations": fit.advance.compilations,
        "gathered": max(gathered, default=0),
        "devices": len(result.hparams.sharding.device_set),
    }


def resumed(task: bl.Task, engine: bl.Engine) -> dict:
    """Two steps on 8 devices, the third on 2."""
    with tempfile.TemporaryDirectory() as folder:
        for steps, devices in ((2, 8), (3, 2)):
            trainer = bl.Trainer(optimizer=optax.adam(0.1), steps=steps, mesh={"data": devices}, engine=engine)
            result = trainer.fit(task, directory=folder, resume=steps > 2)
    return {"hparams": np.asarray(result.hparams).tolist(), "devices": len(result.hparams.sharding.device_set)}


def main() -> None:
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    engine = bl.Implicit(linear_solve=bl.CG())
    meshes = {"one": None, "data": {"data": 8}, "both": {"data": 4, "params": 2}}
    found = {}
    for name, task in (("even", cleaning(SAMPLES)), ("uneven", cleaning(SAMPLES - 3)), ("lasso", lasso())):
        for label, mesh in meshes.items():
            if (name, label) != ("uneven", "both"):
                found[f"{name}, {label}"] = fitted(task, mesh, engine if name != "lasso" else bl.Implicit())
    found["even, resumed"] = resumed(cleaning(SAMPLES), engine)
    refused = {}
    for name, mesh in (("too many", {"data": 9}), ("unknown", {"rows": 2}), ("zero", {"data": 0})):
        try:
            bl.Trainer(mesh=mesh, steps=1).fit(lasso())
        except (TypeError, ValueError) as error:
            refused[name] = str(error)
    try:
        bl.Trainer(mesh={"data": 2}, steps=1).fit(cleaning(8).with_solver(bl.SciPy("L-BFGS-B")))
    except ValueError as error:
        refused["host"] = str(error)
    print(json.dumps({"found": found, "refused": refused}))


if __name__ == "__main__":
    main()
