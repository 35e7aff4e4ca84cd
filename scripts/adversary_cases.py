"""The random problems of `scripts/adversary.py`: what a seed draws, and its oracle.

A case is a structure (loss, penalty or set, tree, engine, solver, precision, size), which is compiled once, and some
draws of data, hyperparameters and starts for it. Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import adversary_losses as losses
import adversary_sets as sets
import jax
import jax.numpy as jnp
import numpy as np
from adversary_oracle import NAMES, Oracle

import bilevel as bl

EXACT: dict[str, Any] = {
    "Implicit()": bl.Implicit(),
    "Implicit(refine=True)": bl.Implicit(refine=True),
    "Implicit(Dense)": bl.Implicit(linear_solve=bl.Dense()),
    "Implicit(GMRES)": bl.Implicit(linear_solve=bl.GMRES()),
    "Implicit(MINRES)": bl.Implicit(linear_solve=bl.MINRES()),
    "Implicit(residual)": bl.Implicit(accuracy="residual"),
    "AutoEngine()": bl.AutoEngine(),
}
OTHERS: dict[str, Any] = {
    "Implicit(CG 1e-3)": bl.Implicit(linear_solve=bl.CG(tol=1e-3)),
    "Implicit(Neumann)": bl.Implicit(linear_solve=bl.Neumann(terms=20)),
    "Implicit(Nystrom)": bl.Implicit(linear_solve=bl.Nystrom(rank=5)),
    "Unrolled()": bl.Unrolled(),
    "Unrolled(estimate)": bl.Unrolled(accuracy="estimate"),
    "Forward()": bl.Forward(),
    "OneStep()": bl.OneStep(),
    "Truncated(20)": bl.Truncated(steps=20),
    "ClosedForm()": bl.ClosedForm(),
}
ENGINES = {**EXACT, **OTHERS}
SMOOTH = (bl.LBFGS, bl.Newton, bl.GradientDescent, bl.FIRE)
PROXIMAL = (bl.ProximalGradient, bl.SpectralProximalGradient, bl.ActiveSetNewton, bl.FixedPointIteration)
MORE = (bl.Newton, bl.ProjectedNewton, bl.LBFGSB, bl.ProximalNewton, bl.BlockCoordinateDescent, bl.MirrorDescent)
CUTS = (1, 2, 3, 5, 10, 30)  # steps after which a solver is cut short
SIZES = (1, 2, 3, 4, 5, 6, 8, 12)
LARGE_SIZES = (20, 33, 40, 64, 65, 120, 257, 300)
DATA = ("plain", "plain", "plain", "scaled", "lattice", "lattice", "nan", "huge", "twins")
STARTS = (0.0, 0.0, 0.1, 1.0, 10.0)
PRECISIONS = ("float64", "float64", "float64", "float32", "mixed")


@dataclass(frozen=True, eq=False)
class Structure:
    """What is compiled once."""

    task: bl.Task
    engine: Any
    entry: sets.Entry
    loss: losses.Loss
    names: tuple[str, ...]  # of the hyperparameters, in the order of theta
    exact: bool  # an engine and a solver that have no excuse for a failure
    lags: bool  # an engine that differentiates steps: its derivative lags behind the solution, as docs/accuracy.md says
    tol: float  # of the solver
    convex: bool
    precision: str
    samples: int
    size: int
    text: str


class Draw(NamedTuple):
    """What is drawn for a structure; arrays in float64, already rounded to the precision of the problem."""

    theta: np.ndarray
    inner: tuple[np.ndarray, ...]
    outer: tuple[np.ndarray, ...]
    key: int
    kind: str


def tree_of(shapes: dict[str, tuple[int, ...]], vector: Any) -> Any:
    """A flat vector as a tree; a leaf named "" is the whole tree."""
    if list(shapes) == [""]:
        return jnp.reshape(vector, shapes[""])
    parts, at = {}, 0
    for name, shape in sorted(shapes.items()):
        count = int(np.prod(shape))
        parts[name] = jnp.reshape(vector[at : at + count], shape)
        at += count
    return parts


def draw_tree(n: int, rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    k = int(rng.integers(1, max(n, 2)))
    choices: list[dict[str, tuple[int, ...]]] = [{"": (n,)}, {"": (n,)}]
    if n >= 2:
        choices += [{"a": (k,), "b": (n - k,)}, {"a": (), "b": (n - 1,)}]
    if n >= 4:
        choices += [{"a": (2, n // 2), "b": (n % 2,)}] if n % 2 else [{"a": (2, n // 2)}, {"": (n // 2, 2)}]
    if n >= 5:
        choices += [{"a": (2, 1), "b": (), "c": (n - 3,)}]
    return choices[rng.integers(len(choices))]


def draw_structure(seed: int, sizes: tuple[int, ...] = (*SIZES, *SIZES, *LARGE_SIZES)) -> Structure:
    """The structure of a seed."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice(sizes))
    precision = str(rng.choice(PRECISIONS))
    dtype = np.float64 if precision == "float64" else np.float32
    loss = losses.LOSSES[str(rng.choice(list(losses.LOSSES)))]
    shapes, entry = draw_entry(n, dtype, rng)
    rare = np.random.default_rng([seed, 1 << 20]).random()  # apart, so that what else a seed draws stays the same
    loss = losses.LINEAR if rare < 0.06 else loss
    shapes, entry = ({"": (n,)}, sets.IMPOSSIBLE) if rare > 0.97 else (shapes, entry)
    linear = loss.link is not None and list(shapes.values()) == [(n,)] and "" in shapes and rng.random() < 0.3
    solver, solver_text = draw_solver(entry, rng)
    engine = str(rng.choice(list(EXACT) if rng.random() < 0.7 else list(OTHERS)))
    scale = float(rng.choice(STARTS))
    ridge = loss is not losses.LINEAR and (loss.name not in ("squares", "log-cosh", "wells") or rng.random() < 0.7)

    def init(key: Any, hparams: Any) -> Any:
        return tree_of(shapes, jnp.asarray(scale * jax.random.normal(key, (n,)), dtype))

    task = bl.Task(
        inner=bl.InnerProblem(losses.stated(loss, linear), init, solver=solver, **entry.stated),
        outer_loss=losses.outer,
        init_hparams=lambda key: {"shift": jnp.zeros(())},
        batches=bl.full_batch(None, None),
        precision="float32" if precision == "float32" else "float64",
    )
    names = tuple(name for name in NAMES if (name != "ridge" or ridge) and (name != "weight" or depends(entry, n)))
    text = (
        f"{loss.name}{' as bl.Linear' if linear else ''}, {entry.name}, n={n} as {shapes}, {engine}, {solver_text}, "
        f"{precision}, start {scale:g}{'' if ridge else ', no ridge'}"
    )
    exact = engine in EXACT and isinstance(solver, bl.Auto)
    lags = engine.startswith(("Unrolled", "Forward", "Truncated", "OneStep"))
    convex = loss.convex and entry.name != "L2Sphere"
    samples = max(3, n // 2) if rng.random() < 0.3 else min(2 * n + 2, 120)
    return Structure(
        task, ENGINES[engine], entry, loss, names, exact, lags, float(solver.tol), convex, precision, samples, n, text
    )


def cut_short(structure: Structure, seed: int) -> Structure:
    """The same problem by a solver that may take a few steps only, so that a failure is honest; ValueError where the
    solver drawn does not take the problem."""
    rng = np.random.default_rng([seed, 1 << 21])
    steps, inner = int(rng.choice(CUTS)), structure.task.inner
    others = SMOOTH if structure.entry.name == "none" else PROXIMAL
    kinds = (bl.Auto,) if isinstance(inner.solver, bl.Auto) and rng.random() < 0.5 else (*others, *MORE)
    kind = kinds[int(rng.integers(len(kinds)))]
    solver = kind(max_steps=steps)
    text = f"{structure.text}, cut short: {kind.__name__}(max_steps={steps})"
    task = replace(structure.task, inner=replace(inner, solver=solver))
    return replace(structure, task=task, exact=False, tol=float(solver.tol), text=text)


def depends(entry: sets.Entry, n: int) -> bool:
    return entry.name not in ("none", "NonNegative", "Isotonic", "SecondOrderCone")


def draw_entry(n: int, dtype: Any, rng: np.random.Generator) -> tuple[dict[str, tuple[int, ...]], sets.Entry]:
    everywhere = sets.entries()
    where = rng.random()
    if where < 0.15:
        return draw_tree(n, rng), everywhere["none"]
    if where < 0.55:
        return draw_tree(n, rng), everywhere[str(rng.choice(list(everywhere)))]
    if where < 0.62 and n % 2 == 0:
        one = rng.random() < 0.5
        return {"": (n // 2, 2)} if one else {"a": (n // 2, 1), "b": (n // 2, 1)}, sets.rows_of(2, 1 if one else 2)
    ordered = sets.entries_of_vectors(n, dtype, rng)
    names = [name for name in ordered if n > 2 or name in ("Simplex", "Hyperplane", "HalfSpace", "Functional ball")]
    return {"": (n,)}, ordered[str(rng.choice(names))]


def draw_solver(entry: sets.Entry, rng: np.random.Generator) -> tuple[Any, str]:
    """The solver, and its words."""
    if rng.random() < 0.6 or entry.name.startswith("Functional"):
        return bl.Auto(), "Auto()"
    kind = (SMOOTH if entry.name == "none" else PROXIMAL)[int(rng.integers(4))]
    tol = float(rng.choice([1e-8, 1e-8, 1e-4, 1e-2]))
    return kind(tol=tol), f"{kind.__name__}(tol={tol:g})"


def draw_data(structure: Structure, seed: int, number: int) -> Draw:
    """The draw of a number."""
    rng = np.random.default_rng([seed, number])
    kind, n, m = str(rng.choice(DATA)), structure.size, structure.samples
    X, truth, c = rng.normal(size=(m, n)), rng.normal(size=n), rng.normal(size=n)
    theta = np.array([{"ridge": rng.uniform(-6, 1), "shift": 0.3 * rng.normal(), "weight": rng.uniform(-4, 1)}[name]
                      for name in structure.names])  # fmt: skip
    if kind == "scaled":
        X = X * 10.0 ** rng.uniform(-2, 2, size=n)
    if kind == "twins" and n > 1:
        X[:, 1] = X[:, 0]
    if kind == "lattice":
        X, c, truth = np.resize(np.eye(n), (m, n)), np.zeros(n), rng.integers(-3, 4, size=n).astype(float)
        theta = np.array([{"ridge": 0.0, "shift": 0.0, "weight": float(np.log(rng.choice([0.5, 1.0, 2.0])))}[name]
                          for name in structure.names])  # fmt: skip
    z = X @ truth / (1 if kind == "lattice" else np.sqrt(n))
    y = z + (0 if kind == "lattice" else 0.3 * rng.normal(size=m))
    if kind == "huge":
        y = y * 10.0 ** rng.integers(2, 7)
    if structure.loss.labels:
        y = np.where(z >= 0, 1.0, -1.0)
    if structure.loss.counts:
        y = rng.poisson(np.exp(np.clip(z, -3, 3))).astype(float)
    if kind == "nan":
        y[rng.integers(m)] = np.nan
    single = structure.precision != "float64"
    arrays = [np.asarray(a, np.float32 if single else np.float64) for a in (X, y, c, rng.normal(size=n), c + 0.5)]
    X, y, c, target, direction = (a.astype(np.float64) for a in arrays)
    if structure.precision == "float32":
        theta = theta.astype(np.float32).astype(np.float64)
    return Draw(theta, (X, y, c), (target, direction), int(rng.integers(1 << 30)), kind)


def oracle_of(structure: Structure, draw: Draw) -> Oracle:
    """The outside solver of a draw."""
    X, y, c = draw.inner

    def named(theta: np.ndarray) -> dict[str, Any]:
        return dict(zip(structure.names, theta, strict=True))

    def slope(w: np.ndarray, theta: np.ndarray) -> np.ndarray:
        values = named(theta)
        beside = values["shift"] * c + (np.exp(values["ridge"]) * w if "ridge" in values else 0)
        return structure.loss.gradient(w, X, y) + beside

    def prox(v: np.ndarray, step: float, theta: np.ndarray) -> np.ndarray:
        return structure.entry.prox(v, step, np.exp(named(theta).get("weight", 0.0)))

    return Oracle(slope, prox, lambda w, theta: losses.outer_value(w, named(theta)["shift"], draw.outer))
