"""The penalties and sets of `scripts/adversary.py`: how bilevel states each, and its prox by `adversary_proxes`.

The parameter of each entry is t = exp(hparams["weight"]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from adversary_proxes import (
    affine,
    capped_simplex,
    clip,
    group_lasso,
    isotonic,
    l1_ball,
    l2_ball,
    length,
    polyhedron,
    second_order_cone,
    simplex,
    soft,
    sorted_l1,
    total_variation,
)

import bilevel as bl


@dataclass(frozen=True, eq=False)
class Entry:
    """A penalty or a set at one size: ``stated`` are the fields of the inner problem, ``prox(v, step, t)`` is numpy."""

    name: str
    stated: dict[str, Any]
    prox: Callable[..., np.ndarray]
    unbounded: bool = True  # the set is, and the penalty does not grow along every direction


def weight(hparams: Any) -> Any:
    """The parameter of an entry, as bilevel sees it."""
    return jnp.exp(hparams["weight"])


def entries() -> dict[str, Entry]:
    """Those that act on any tree."""
    made = [
        Entry("none", {}, lambda v, s, t: v),
        Entry("L1", {"penalty": bl.L1(weight=weight)}, lambda v, s, t: soft(v, s * t)),
        Entry("Ridge", {"penalty": bl.Ridge(weight=weight)}, lambda v, s, t: v / (1 + s * t), unbounded=False),
        Entry(
            "ElasticNet", {"penalty": bl.ElasticNet(l1=weight, l2=0.1)}, lambda v, s, t: soft(v, s * t) / (1 + 0.1 * s)
        ),
        Entry(
            "NonNegativeL1",
            {"penalty": bl.NonNegativeL1(weight=weight)},
            lambda v, s, t: np.where(np.real(v - s * t) > 0, v - s * t, 0),
        ),
        Entry(
            "NonNegativeRidge",
            {"penalty": bl.NonNegativeRidge(weight=weight)},
            lambda v, s, t: np.where(np.real(v) > 0, v / (1 + s * t), 0),
        ),
        Entry(
            "Huber",
            {"penalty": bl.Huber(weight=weight)},
            lambda v, s, t: np.where(
                np.abs(np.real(v)) <= 1 + np.real(s * t), v / (1 + s * t), v - s * t * np.sign(np.real(v))
            ),
        ),
        Entry("LInf", {"penalty": bl.LInf(weight=weight)}, lambda v, s, t: v - l1_ball(v, s * t)),
        Entry("NonNegative", {"constraint": bl.NonNegative()}, lambda v, s, t: np.where(np.real(v) > 0, v, 0)),
        Entry(
            "Box", {"constraint": bl.Box(lower=-0.5, upper=weight)}, lambda v, s, t: clip(v, -0.5, t), unbounded=False
        ),
        Entry(
            "Hypercube", {"constraint": bl.Hypercube(side=weight)}, lambda v, s, t: clip(v, 0 * t, t), unbounded=False
        ),
        Entry("L1Ball", {"constraint": bl.L1Ball(radius=weight)}, lambda v, s, t: l1_ball(v, t), unbounded=False),
        Entry("L2Ball", {"constraint": bl.L2Ball(radius=weight)}, lambda v, s, t: l2_ball(v, t), unbounded=False),
        Entry("LInfBall", {"constraint": bl.LInfBall(radius=weight)}, lambda v, s, t: clip(v, -t, t), unbounded=False),
        Entry(
            "L2Sphere",
            {"constraint": bl.L2Sphere(radius=weight)},
            lambda v, s, t: v * (t / length(v)),
            unbounded=False,
        ),
        Entry(
            "L1 in a box",
            {"penalty": bl.L1(weight=weight), "constraint": bl.Box(lower=-0.4, upper=0.6)},
            lambda v, s, t: clip(soft(v, s * t), -0.4, 0.6),
            unbounded=False,
        ),
    ]
    return {entry.name: entry for entry in made}


def entries_of_vectors(n: int, dtype: type, rng: np.random.Generator) -> dict[str, Entry]:
    """Those whose meaning depends on the order of the unknowns, or that have rows: for one leaf, a vector."""
    slopes = np.linspace(2, 1, n).astype(dtype)
    normal, rows = rng.normal(size=n).astype(dtype), rng.normal(size=(min(2, n), n)).astype(dtype)
    G, bound = rng.normal(size=(min(n, 4), n)).astype(dtype), rng.uniform(-0.2, 1, size=min(n, 4)).astype(dtype)
    made = [
        Entry("Simplex", {"constraint": bl.Simplex(scale=weight)}, lambda v, s, t: simplex(v, t), unbounded=False),
        Entry("Isotonic", {"constraint": bl.Isotonic()}, lambda v, s, t: isotonic(v)),
        Entry(
            "TotalVariation", {"penalty": bl.TotalVariation(weight=weight)}, lambda v, s, t: total_variation(v, s * t)
        ),
        Entry(
            "SortedL1",
            {"penalty": bl.SortedL1(weights=lambda hparams: weight(hparams) * slopes)},
            lambda v, s, t: sorted_l1(v, s * t * slopes),
        ),
        Entry(
            "CappedSimplex",
            {"constraint": bl.CappedSimplex(total=lambda hparams: 0.6 * n * (1 - 1 / (1 + weight(hparams))))},
            lambda v, s, t: capped_simplex(v, 0.6 * n * (1 - 1 / (1 + t))),
            unbounded=False,
        ),
        Entry("SecondOrderCone", {"constraint": bl.SecondOrderCone()}, lambda v, s, t: second_order_cone(v)),
        Entry(
            "Hyperplane",
            {"constraint": bl.Hyperplane(normal=normal, offset=weight)},
            lambda v, s, t: affine(v, normal[None], np.array([t])),
        ),
        Entry(
            "HalfSpace",
            {"constraint": bl.HalfSpace(normal=normal, offset=lambda hparams: weight(hparams) - 1)},
            lambda v, s, t: polyhedron(v, normal[None], np.array([t - 1])),
        ),
        Entry(
            "AffineSet",
            {"constraint": bl.AffineSet(A=rows, b=lambda hparams: weight(hparams) * jnp.ones(len(rows), dtype))},
            lambda v, s, t: affine(v, rows, t * np.ones(len(rows))),
        ),
        Entry(
            "Functional",
            {"constraint": bl.Functional(inequality=lambda w, hparams, batch: G @ w - bound * weight(hparams))},
            lambda v, s, t: polyhedron(v, G, bound * t),
        ),
        Entry(
            "Functional ball",
            {"constraint": bl.Functional(inequality=lambda w, hparams, batch: w @ w - weight(hparams) ** 2)},
            lambda v, s, t: l2_ball(v, t),
            unbounded=False,
        ),
    ]
    return {entry.name: entry for entry in made}


def impossible(x: Any) -> Any:
    """x <= 0 and x >= 1."""
    return jnp.stack([x, 1 - x])


IMPOSSIBLE = Entry(
    "Functional, impossible",
    {"constraint": bl.Functional(inequality=lambda w, hparams, batch: impossible(w[0] - weight(hparams)))},
    lambda v, s, t: v,
)


def rows_of(width: int, leaves: int) -> Entry:
    """Groups: the rows of a matrix, of a leaf or of so many leaves side by side."""

    def prox(v: np.ndarray, s: float, t: float) -> np.ndarray:
        rows = v.reshape(leaves, -1, width // leaves).swapaxes(0, 1)  # leaves come one after the other
        moved = group_lasso(rows.ravel(), s * t, width)
        return moved.reshape(rows.shape).swapaxes(0, 1).ravel()

    return Entry("GroupLasso", {"penalty": bl.GroupLasso(weight=weight)}, prox)
