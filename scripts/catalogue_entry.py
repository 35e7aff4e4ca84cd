"""One line of the catalogue: a function, sample arguments, and a certificate of its value that bounds the error.

The certificate of a projection or proximal operator at x with result p is the least change of x (and of the set) that
makes p exactly right. Both maps are 1-Lipschitz, so that it bounds the error of p, too; that is what distinguishes it
from a duality gap, which bounds only the square of the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, eq=False)
class Entry:
    """A function of the catalogue at one point, where its Jacobian in the point is neither zero nor of full rank."""

    name: str
    function: Callable  # (*args) -> array, differentiable in every argument
    args: tuple[np.ndarray, ...]
    certificate: Callable[..., float]  # (result, *args) -> a bound of its error
    smooth: bool = False  # the map is smooth, so its Jacobian may well have full rank
    slow: bool = False  # compiling its derivatives takes more than some seconds

    def __repr__(self) -> str:
        return self.name


class Polyhedron(NamedTuple):
    """{p : A p = b, G p <= h}, for points as flat vectors."""

    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray


def polyhedron(n: int, A=(), b=(), G=(), h=()) -> Polyhedron:
    """A polyhedron in R^n from lists of rows; what is left out is empty."""
    return Polyhedron(*(np.reshape(part, shape) for part, shape in ((A, (-1, n)), (b, -1), (G, (-1, n)), (h, -1))))


def nearest_error(points: Polyhedron, x: np.ndarray, p: np.ndarray) -> float:
    """The certificate of p as the nearest point to x: infeasibility, and the distance of x - p from the normal cone."""
    x, p = np.ravel(x), np.ravel(p)
    slack = points.h - points.G @ p
    active = slack <= 1e-7
    infeasible = np.concatenate([np.abs(points.A @ p - points.b), np.maximum(-slack, 0), np.abs(slack[active])])
    normals = np.concatenate([points.A, -points.A, points.G[active]]).T
    distance = nnls(normals, x - p)[1] if normals.size else np.linalg.norm(x - p)
    return float(max(distance, np.max(infeasible, initial=0.0)))


def polyhedral(describe: Callable[..., Polyhedron]) -> Callable[..., float]:
    """The certificate of a projection onto the polyhedron describe(x, *parameters)."""
    return lambda p, x, *parameters: nearest_error(describe(x, *parameters), x, p)


def curved(gradient: Callable[..., np.ndarray], level: Callable[..., float]) -> Callable[..., float]:
    """The certificate of a projection onto {p : level(p) <= 0} at a point outside: p lies on the boundary, x - p is a
    non-negative multiple of gradient(p)."""

    def certificate(p, x, *parameters):
        normal = np.asarray(gradient(p, *parameters), float)
        size = np.linalg.norm(normal)
        outward = (x - p) @ normal / size
        return float(max(np.linalg.norm(x - p - outward * normal / size), -outward, abs(level(p, *parameters)) / size))

    return certificate


def largest(*parts) -> float:
    """The largest absolute entry of all parts."""
    return float(max(np.max(np.abs(part), initial=0.0) for part in map(np.asarray, parts)))
