"""Sets of linear equations and inequalities, known by their projection. Large polyhedra are better stated by functions
(`bl.Functional`), which also gives their multipliers."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import projections
from bilevel.constraints.parametric import ParametricSet
from bilevel.penalties import Parameter, extent
from bilevel.penalties.parametric import nowhere
from bilevel.projections import kinks


@dataclass(frozen=True, eq=False)
class Hyperplane(ParametricSet):
    """{w: normal'w = offset}."""

    normal: Parameter
    offset: Parameter
    reach = staticmethod(extent.everything)
    operator = staticmethod(projections.hyperplane)
    distance = staticmethod(nowhere)


@dataclass(frozen=True, eq=False)
class HalfSpace(ParametricSet):
    """{w: normal'w <= offset}."""

    normal: Parameter
    offset: Parameter
    reach = staticmethod(extent.everything)
    operator = staticmethod(projections.halfspace)
    distance = staticmethod(kinks.halfspace)


@dataclass(frozen=True, eq=False)
class AffineSet(ParametricSet):
    """{w: A w = b}."""

    A: Parameter
    b: Parameter
    reach = staticmethod(extent.rows)
    operator = staticmethod(projections.affine_set)
    distance = staticmethod(nowhere)


@dataclass(frozen=True, eq=False)
class Polyhedron(ParametricSet):
    """{w: A w = b, G w <= h}; large ones are better stated by functions (bl.Functional)."""

    A: Parameter
    b: Parameter
    G: Parameter
    h: Parameter
    reach = staticmethod(extent.rows)
    operator = staticmethod(projections.polyhedron)
    distance = staticmethod(kinks.polyhedron)


@dataclass(frozen=True, eq=False)
class Transport(ParametricSet):
    """{w >= 0: row sums = rows, column sums = columns}: the transport polytope."""

    rows: Parameter
    columns: Parameter
    reach = staticmethod(extent.matrix)
    operator = staticmethod(projections.transport)
    distance = staticmethod(kinks.transport)


@dataclass(frozen=True, eq=False)
class Birkhoff(ParametricSet):
    """The doubly stochastic matrices."""

    reach = staticmethod(extent.matrix)
    operator = staticmethod(projections.birkhoff)
    distance = staticmethod(kinks.birkhoff)
