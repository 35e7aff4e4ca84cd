"""Sets of linear equations and inequalities, known by their projection. Large polyhedra are better stated by functions
(`bl.Functional`), which also gives their multipliers."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import projections
from bilevel.constraints.catalogue import ParametricSet
from bilevel.penalties import Parameter


@dataclass(frozen=True, eq=False)
class Hyperplane(ParametricSet):
    """{w: normal'w = offset}."""

    normal: Parameter
    offset: Parameter
    operator = staticmethod(projections.hyperplane)


@dataclass(frozen=True, eq=False)
class HalfSpace(ParametricSet):
    """{w: normal'w <= offset}."""

    normal: Parameter
    offset: Parameter
    operator = staticmethod(projections.halfspace)


@dataclass(frozen=True, eq=False)
class AffineSet(ParametricSet):
    """{w: A w = b}."""

    A: Parameter
    b: Parameter
    operator = staticmethod(projections.affine_set)


@dataclass(frozen=True, eq=False)
class Polyhedron(ParametricSet):
    """{w: A w = b, G w <= h}; large ones are better stated by functions (bl.Functional)."""

    A: Parameter
    b: Parameter
    G: Parameter
    h: Parameter
    operator = staticmethod(projections.polyhedron)


@dataclass(frozen=True, eq=False)
class Transport(ParametricSet):
    """{w >= 0: row sums = rows, column sums = columns}: the transport polytope."""

    rows: Parameter
    columns: Parameter
    operator = staticmethod(projections.transport)


@dataclass(frozen=True, eq=False)
class Birkhoff(ParametricSet):
    """The doubly stochastic matrices."""

    operator = staticmethod(projections.birkhoff)
