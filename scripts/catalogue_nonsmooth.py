"""The sets and penalties of an inner problem, each for a vector and for a tree that ravels to it."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import bilevel as bl
from bilevel.penalties import Penalty

POINT = np.array([0.9, -0.4, 0.55, 0.2, -1.3, 1.7])
N = POINT.size
NORMAL = np.array([1.0, -0.5, 2.0, 0.7, 0.3, -1.1])
LOWER, UPPER = -0.5 - 0.1 * np.arange(N), 0.3 + 0.15 * np.arange(N)
SQUARE = np.random.default_rng(4).normal(size=(3, 3))


def split(vector: np.ndarray) -> Any:
    """A tree of a vector, a scalar and a vector."""
    array = np.asarray(vector)
    return {"a": array[:2], "b": array[2], "c": {"d": array[3:]}}


def together(tree: Any) -> jnp.ndarray:
    return ravel_pytree(tree)[0]


@dataclass(frozen=True, eq=False)
class Nonsmooth:
    """An entry of `bilevel.constraints` or `bilevel.penalties`."""

    whole: Penalty  # for one array like the point
    on_tree: Penalty | None = None  # for split(point); none where params are a matrix
    point: Any = None
    smooth: bool = False  # its prox has no kink (of a sphere: but for its centre)

    @property
    def name(self) -> str:
        return type(self.whole).__name__

    @property
    def at(self) -> np.ndarray:
        return POINT if self.point is None else self.point

    def __repr__(self) -> str:
        return self.name


def same(entry: Penalty, **settings: Any) -> Nonsmooth:
    """An entry whose parameters are the same for the vector and for the tree."""
    return Nonsmooth(entry, entry, **settings)


def stated(make: Any, *vectors: np.ndarray) -> Nonsmooth:
    """An entry with parameters that are like the params."""
    return Nonsmooth(make(*vectors), make(*map(split, vectors)))


TERMS = [
    same(bl.Zero(), smooth=True),
    stated(bl.L1, np.array([0.8, 0.8, 0.3, 0.0, 0.5, 0.2])),
    stated(lambda weight: bl.ElasticNet(weight, 0.7), np.abs(NORMAL)),
    same(bl.NonNegativeL1(0.3)),
    same(bl.Ridge(0.5), smooth=True),
    same(bl.NonNegativeRidge(0.5)),
    same(bl.GroupLasso(1.1)),
    same(bl.LInf(1.4)),
    Nonsmooth(bl.NuclearNorm(1.1), point=SQUARE),
    same(bl.TotalVariation(np.array([0.5, 0.4, 0.8, 0.0, 0.6]))),
    same(bl.SortedL1(np.array([0.15, 1.1, 0.4, 0.25, 0.9, 0.0]))),
    same(bl.Huber(0.8, 0.6)),
    same(bl.LogBarrier(0.4), smooth=True),
]
SETS = [
    same(bl.Free(), smooth=True),
    stated(bl.Box, LOWER, UPPER),
    same(bl.Simplex(1.1)),
    same(bl.NonNegative()),
    same(bl.Hypercube(0.6)),
    stated(lambda upper: bl.CappedSimplex(upper, 1.1), UPPER),
    same(bl.L1Ball(1.1)),
    same(bl.L2Ball(1.1)),
    same(bl.LInfBall(0.45)),
    stated(lambda lower, upper, normal: bl.BoxSection(lower, upper, normal, 0.4), LOWER, UPPER, NORMAL),
    same(bl.Isotonic()),
    same(bl.SecondOrderCone()),
    Nonsmooth(bl.PSDCone(), point=SQUARE),
    same(bl.ExponentialCone(), point=np.array([0.5, 0.3, -0.2])),
    same(bl.L1Sphere(5.5)),
    same(bl.L2Sphere(1.1), smooth=True),
    same(bl.SparseSimplex(2, 1.1)),
    Nonsmooth(bl.Hyperplane(NORMAL, 0.3), bl.Hyperplane(split(NORMAL), 0.3), smooth=True),
    stated(lambda normal: bl.HalfSpace(normal, 0.3), NORMAL),
    same(bl.AffineSet(np.vander(np.arange(1.0, 3.0), N), np.array([0.3, -0.2])), smooth=True),
    same(bl.Polyhedron(np.ones((1, N)), np.ones(1), np.eye(N)[:4], 0.4 * np.ones(4))),
    Nonsmooth(bl.Transport(np.array([0.4, 0.6, 1.0]), np.array([0.7, 0.8, 0.5])), point=SQUARE),
    Nonsmooth(bl.Birkhoff(), point=0.2 * SQUARE),
]


def listed_nowhere() -> list[Nonsmooth]:
    """The exported penalties and sets that are not above: they obey the laws with the defaults of their parameters."""
    known = {entry.name for entry in (*TERMS, *SETS)} | ABSTRACT
    names = sorted({*bl.penalties.__all__, *bl.constraints.__all__} - known)
    classes = [getattr(bl, name) for name in names if inspect.isclass(getattr(bl, name, None))]
    needed = [one.__name__ for one in classes if any(field.default is MISSING for field in fields(one))]
    assert not needed, f"{', '.join(needed)}: give their parameters defaults, or an entry in {__file__}"
    return [same(one()) for one in classes]


# What is no entry by itself: bases, and what is made of other entries or of functions.
ABSTRACT = {"Constraint", "Penalty", "ParametricPenalty", "Parts", "Both", "Functional"}
NONSMOOTH = [*TERMS, *SETS, *listed_nowhere()]
