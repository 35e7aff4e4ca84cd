"""Sets of linear equations and inequalities, known by their projection. Large polyhedra are better stated by functions
(`bl.Functional`), which also gives their multipliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bilevel import projections
from bilevel.constraints.parametric import ParametricSet, Projection
from bilevel.penalties import Parameter, extent
from bilevel.penalties.parametric import nowhere
from bilevel.projections import kinks


@dataclass(frozen=True, eq=False)
class Hyperplane(ParametricSet):
    """{w: normal'w = offset}."""

    normal: Parameter
    offset: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.everything, projections.hyperplane, nowhere)


@dataclass(frozen=True, eq=False)
class HalfSpace(ParametricSet):
    """{w: normal'w <= offset}."""

    normal: Parameter
    offset: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.everything, projections.halfspace, kinks.halfspace)


@dataclass(frozen=True, eq=False)
class AffineSet(ParametricSet):
    """{w: A w = b}."""

    A: Parameter
    b: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.affine_set, nowhere)


@dataclass(frozen=True, eq=False)
class Polyhedron(ParametricSet):
    """{w: A w = b, G w <= h}; large ones are better stated by functions (bl.Functional)."""

    A: Parameter
    b: Parameter
    G: Parameter
    h: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.polyhedron, kinks.polyhedron)


@dataclass(frozen=True, eq=False)
class Transport(ParametricSet):
    """{w >= 0: row sums = rows, column sums = columns}: the transport polytope."""

    rows: Parameter
    columns: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.matrix, projections.transport, kinks.transport)


@dataclass(frozen=True, eq=False)
class Birkhoff(ParametricSet):
    """The doubly stochastic matrices."""

    convex: ClassVar[bool] = True
    projection = Projection(extent.matrix, projections.birkhoff, kinks.birkhoff)
