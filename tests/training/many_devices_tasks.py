"""Run by test_devices_tasks.py in a process with 8 virtual devices: one hypergradient of each task on one device and
on eight; prints JSON."""

import json
import re
import sys
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import bilevel as bl
from bilevel import tasks
from bilevel.training.fit import Fit

DEFAULT = bl.Implicit()


def own() -> bl.Task:
    """A task of a user's: a robust regression with a penalty for each of two groups of unknowns."""
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 10))
    y = x @ random.normal(size=10) + random.standard_t(2, size=96)

    def error(params, hparams, batch):
        x, y = batch
        return jnp.mean(jnp.sqrt(1.0 + (x[:, :6] @ params["a"] + x[:, 6:] @ params["b"] - y) ** 2))

    def loss(params, hparams, batch):
        return error(params, hparams, batch) + sum(jnp.exp(hparams[name]) * jnp.sum(params[name] ** 2) for name in "ab")

    return bl.Task(
        inner=bl.InnerProblem(
            loss=loss, init=lambda key, hparams: {"a": jnp.zeros(6), "b": jnp.zeros(4)}, solver=bl.LBFGS(tol=1e-5)
        ),
        outer_loss=error,
        init_hparams=lambda key: {"a": jnp.array(-2.0), "b": jnp.array(-3.0)},
        batches=bl.full_batch((x[:64], y[:64]), (x[64:], y[64:])),
    )


def lanes() -> dict:
    """Problems in one queue on one device and in eight on eight: the largest differences, and what is exchanged."""
    random = np.random.default_rng(0)
    x, signs = random.normal(size=(24, 20, 4)), np.sign(random.normal(size=(24, 20)))
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.mean(jnp.logaddexp(0.0, -batch[1] * (batch[0] @ w))) + jnp.exp(h) * w @ w,
        init=lambda key, h: jnp.zeros(4),
        solver=bl.LBFGS(tol=1e-12),
    )
    mesh, found = Mesh(np.array(jax.devices()), ("data",)), {}
    with jax.enable_x64(True):
        for name, h, axis in (("own", jnp.linspace(-3.0, 1.0, 24), 0), ("shared", jnp.array(-1.0), None)):
            one = lambda h, batch, axis=axis: bl.solve_batch(inner, h, batch, in_axes=(axis, 0), lanes=2)
            places = (PartitionSpec("data") if axis == 0 else PartitionSpec(), PartitionSpec("data"))
            many = jax.shard_map(one, mesh=mesh, in_specs=places, out_specs=PartitionSpec("data"), check_vma=False)
            program = jax.jit(many).lower(h, (x, signs)).compile()
            text = program.as_text() or ""
            solutions = one(h, (x, signs)), program(h, (x, signs))
            slope = lambda solve, h=h: jax.jit(jax.grad(lambda h: jnp.sum(solve(h, (x, signs)).params ** 3)))(h)
            found[name] = {
                "params": float(jnp.max(jnp.abs(solutions[0].params - solutions[1].params))),
                "slope": float(jnp.max(jnp.abs(slope(one) - slope(many)))),
                "steps": [np.asarray(one.steps).tolist() for one in solutions],
                "codes": [np.asarray(one.status.code).tolist() for one in solutions],
                "exchanges": len(re.findall(r"all-gather|all-reduce|collective-permute|all-to-all", text)),
                "places": len(solutions[1].params.sharding.device_set),
            }
    return found


TASKS = {
    "hyperclean": lambda: tasks.hyperclean(data="iris", train=40, validation=40, stop=0),
    "logistic": lambda: tasks.logistic(data="iris", train=56, validation=40, stop=0, penalties="per_feature"),
    "distillation": lambda: tasks.distillation(data="iris", train=64, stop=24),
    "few_shot_sinusoid": lambda: tasks.few_shot_sinusoid(
        sinusoids=6, shots=5, queries=5, width=4, held_out=2, tol=1e-13
    ),
    "svm": lambda: tasks.svm(features=6, train=48, validation=24, test=24, classes=3, tol=1e-13, max_steps=20000),
    "cross_validation": lambda: tasks.cross_validation(data="breast_cancer", folds=4),
    "own": own,
}


def hypergradient(task: bl.Task, devices: int, engine: bl.Engine = DEFAULT) -> dict:
    """Value, hypergradient and estimate of the first step, and the largest array that the devices gathered."""
    trainer = bl.Trainer(optimizer=optax.sgd(0.1), steps=1, mesh={"data": devices}, engine=engine)
    with jax.enable_x64(True), ExitStack() as stack:
        fit = Fit(trainer, task, jax.random.key(0), None, stack)
        state, evaluation = fit.attempt()
    text = "".join((one.compiled.as_text() or "") for one in set_of(fit.advance._found.values()))
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\][^=]*? all-gather(?:-start)?\(", text)
    inner, outer = task.batches(jax.random.key(0), 0)
    return {
        "value": float(evaluation.value),
        "gradient": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(evaluation.grad)]).tolist(),
        "estimate": float(evaluation.report.error_estimate),
        "measured": {name: float(number) for name, number in evaluation.measured.items()},
        "residuals": [float(evaluation.report.inner_residual), float(evaluation.report.adjoint_residual)],
        "gathered": max((int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes), default=0),
        "data": max(np.size(leaf) for leaf in jax.tree.leaves((inner, outer))),
        "spread": all(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.carry.params)),
        "devices": len(jax.tree.leaves(state.hparams)[0].sharding.device_set),
    }


def set_of(programs) -> list:
    return list({id(one): one for one in programs}.values())


def main() -> None:
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    found = {}
    for name in TASKS:
        found[name] = {devices: hypergradient(TASKS[name](), devices) for devices in (1, 8)}
    for name in ("hyperclean", "logistic", "own"):
        found[f"{name} in products"] = {8: hypergradient(TASKS[name](), 8, bl.Implicit(linear_solve=bl.CG()))}
    found["lanes"] = lanes()
    print("FOUND" + json.dumps(found))


if __name__ == "__main__":
    main()
