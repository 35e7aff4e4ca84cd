"""The quadratic programs of `scripts/adversary.py`, and their oracle: least distance by non-negative least squares.

min 1/2 x'Qx + q'x, Ax = b, Gx <= h with Q = LL' is the least ||y|| with y = L'x + L^-1 q in a polyhedron, which the
active-set method of Lawson and Hanson (1974, chapter 23) solves exactly; its active rows give the KKT system, and that
the derivatives. Rows are normalised first, so that the oracle does not see their units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from adversary_judge import Verdict, refusal
from scipy.optimize import nnls

import bilevel as bl

KINDS = ("plain", "scaled", "scaled", "lattice", "zero row", "infeasible", "nan", "indefinite", "huge")
SOLVERS = {"Auto()": bl.Auto(), "InteriorPoint()": bl.InteriorPoint(), "OperatorSplitting()": bl.OperatorSplitting()}
SIZES = (1, 2, 3, 5, 8, 12, 30)
CLOSE = {np.float64: 1e-5, np.float32: 1e-2}
SLOPE = {np.float64: 1e-3, np.float32: 5e-2}
MARGIN = {np.float64: 1e-6, np.float32: 1e-3}  # of dual or slack, below which the active rows are not to be told


class Program(NamedTuple):
    """The data, and by how much rows and objective were multiplied."""

    Q: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray
    units: tuple[np.ndarray, np.ndarray, np.ndarray]  # of the derivatives in q, b, h
    c: np.ndarray


def draw(n: int, p: int, m: int, kind: str, rng: np.random.Generator) -> Program:
    M = rng.normal(size=(n, n))
    Q, q, c = M @ M.T / n + 0.1 * np.eye(n), rng.normal(size=n), rng.normal(size=n)
    A, G, inside = rng.normal(size=(p, n)), rng.normal(size=(m, n)), rng.normal(size=n)
    if kind == "lattice":
        Q, q = np.eye(n), rng.integers(-3, 4, size=n).astype(float)
        A, G, inside = np.sign(A), np.sign(G), rng.integers(-2, 3, size=n).astype(float)
    b = A @ inside
    h = G @ inside + (rng.integers(0, 2, size=m) if kind == "lattice" else rng.uniform(0, 1, size=m))
    if kind == "zero row":
        G[0], h[0] = 0, 1
    if kind == "huge":
        q, b, h = 1e6 * q, 1e6 * b, 1e6 * h
    if kind == "infeasible" and m > 1:
        G[1], h[1] = -G[0], -h[0] - 0.5
    if kind == "indefinite":
        Q = Q - 2 * np.linalg.eigvalsh(Q)[-1] * np.outer(M[0], M[0]) / (M[0] @ M[0])
    scale, rows, more = 1.0, np.ones(p), np.ones(m)
    if kind == "scaled":
        scale, rows, more = 10.0 ** rng.integers(-6, 7), 10.0 ** rng.integers(-6, 7, p), 10.0 ** rng.integers(-6, 7, m)
    if kind == "nan":
        h[rng.integers(m)] = np.nan
    data = scale * Q, scale * q, rows[:, None] * A, rows * b, more[:, None] * G, more * h
    return Program(*data, (np.full(n, scale), rows, more), c)


def solve(program: Program) -> tuple[np.ndarray, list[np.ndarray], float] | None:
    """(x, derivatives of c'x in q, b, h in the units of normalised rows, least dual or slack), or None."""
    Q, q, A, b, G, h = program[:6]
    scale, rows, more = (unit[:, None] for unit in program.units)
    Q, q, A, b, G, h = Q / scale, q / scale[:, 0], A / rows, b / rows[:, 0], G / more, h / more[:, 0]
    root = np.linalg.cholesky(Q)
    back = np.linalg.solve(root, np.concatenate([A, -A, G]).T).T  # the rows in terms of y
    bound = np.concatenate([b, -b, h]) + np.concatenate([A, -A, G]) @ np.linalg.solve(Q, q)
    sizes = np.linalg.norm(back, axis=1)
    kept = sizes > 0
    lengths = np.where(kept, sizes, 1)
    stacked = np.concatenate([-(back / lengths[:, None]).T, -(bound / lengths)[None]])[:, kept]
    last = max(np.abs(stacked[-1]).max(initial=0.0), 1e-300)
    stacked[-1] /= last
    # Without a column SciPy 1.17 ends the process (double free).
    u = nnls(stacked, np.append(np.zeros(q.size), 1.0), maxiter=1000)[0] if np.any(kept) else np.zeros(0)
    pushing = np.zeros(kept.size, bool)
    pushing[kept] = u > 1e-12 * max(u.max(initial=0.0), 1e-300)
    active = pushing[2 * b.size :]
    face = np.concatenate([A, G[active]])
    n, k = q.size, len(face)
    if k and np.linalg.matrix_rank(face) < k:
        return None
    system = np.block([[Q, face.T], [face, np.zeros((k, k))]])
    solution = np.linalg.solve(system, np.concatenate([-q, b, h[active]]))
    x, dual = solution[:n], solution[n + b.size :]
    slack = (h - G @ x)[~active] / np.where(np.any(G[~active], axis=1), 1, np.inf)
    margin = min([*dual / (1 + np.abs(q).max()), *(slack[np.any(G[~active], axis=1)] / (1 + np.abs(x).max())), np.inf])
    adjoint = np.linalg.solve(system, np.concatenate([program.c, np.zeros(k)]))
    by_h = np.zeros(h.size)
    by_h[active] = adjoint[n + b.size :]
    return x, [-adjoint[:n], adjoint[n : n + b.size], by_h], float(margin)


def rounded(program: Program, dtype: Any) -> Program:
    """The data as numbers of the given precision."""
    data = {name: np.asarray(getattr(program, name), dtype).astype(float) for name in ("Q", "q", "A", "b", "G", "h")}
    return program._replace(**data)


def layer(solver: Any) -> Callable[..., Any]:
    """(x, code, derivatives of c'x in q, b, h), compiled once."""

    def value(q: Any, b: Any, h: Any, Q: Any, A: Any, G: Any, c: Any) -> Any:
        solution = bl.quadratic_program(Q, q, A, b, G, h, solver=solver)
        return c @ solution.params, (solution.params, solution.status.code)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))


def verdicts(seed: int, draws: int) -> Iterator[tuple[str, Verdict]]:
    """The verdicts on a program of each kind of data."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice(SIZES))
    p, m = int(rng.integers(0, (n + 1) // 2)), int(rng.integers(1, 2 * n + 2))
    name = str(rng.choice(list(SOLVERS), p=(0.6, 0.2, 0.2)))
    dtype = np.float32 if rng.random() < 0.25 else np.float64
    solved = layer(SOLVERS[name])
    for number in range(draws):
        kind = str(rng.choice(KINDS))
        program = draw(n, p, m, kind, np.random.default_rng([seed, number]))
        program = rounded(program, dtype)
        words = (
            f"bl.quadratic_program, n={n}, {p} equalities, {m} rows, {name}, {dtype.__name__}; draw {number} ({kind})"
        )
        Q, q, A, b, G, h, c = (jnp.asarray(a, dtype) for a in (*program[:6], program.c))
        try:
            (_, (x, code)), grads = solved(q, b, h, Q, A, G, c)
        except Exception as error:  # what is not a refusal by the library is a fault, of whatever type
            yield words, refusal(error)
            return
        yield words, judge(program, kind, dtype, (np.asarray(x), bl.Code(int(code)), [np.asarray(g) for g in grads]))


@np.errstate(all="ignore")
def judge(program: Program, kind: str, dtype: Any, answer: tuple[np.ndarray, bl.Code, list[np.ndarray]]) -> Verdict:
    x, code, grads = answer
    usable = code <= bl.Code.stalled and bool(np.all(np.isfinite(x)))
    impossible = kind in ("nan", "indefinite") or (kind == "infeasible" and program.h.size > 1)
    if impossible:
        return Verdict("silent wrong", f"{code.name} at {x}") if usable else Verdict("honest")
    truth = solve(program)
    if truth is None or truth[2] < -1e-9:
        return Verdict("undecided", "the oracle found no solution")
    if not usable:
        excused = dtype == np.float32 and kind in ("scaled", "huge")
        return Verdict("honest") if excused else Verdict("false alarm", f"{code.name}, right {truth[0]}")
    error = np.abs(x - truth[0]).max() / (1 + np.abs(truth[0]).max())
    if error > CLOSE[dtype]:
        return Verdict("silent wrong", f"{code.name}: x = {x}, right {truth[0]}")
    if truth[2] < MARGIN[dtype]:
        return Verdict("honest", "a kink")
    return judge_slopes(program, dtype, grads, truth[1])


def judge_slopes(program: Program, dtype: Any, grads: list[np.ndarray], truths: list[np.ndarray]) -> Verdict:
    """The derivatives, in the units of normalised rows; NaN says that they are not known."""
    for name, unit, grad, truth in zip("qbh", program.units, grads, truths, strict=True):
        if not np.all(np.isfinite(grad)):
            return Verdict("false alarm", f"the derivative in {name} is NaN, right {truth}")
        if np.abs(grad * unit - truth).max(initial=0) > SLOPE[dtype] * (1 + np.abs(truth).max(initial=0)):
            return Verdict("silent wrong", f"the derivative in {name} is {grad * unit}, right {truth} (units of rows)")
    return Verdict("right")
