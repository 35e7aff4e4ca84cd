"""Approximate inverses for Krylov methods: what they are and how they are set up."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import jax

from bilevel.linear_solve import tree
from bilevel.linear_solve.base import Operator
from bilevel.typing import LinearMap, PyTree


class Preconditioner(abc.ABC):
    """A way to approximate the inverse of A. Abstract; the subclasses are frozen dataclasses, registered as pytrees."""

    @abc.abstractmethod
    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        """The map r -> M r with M close to the inverse of A, and the number of products with A that it cost."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Identity(Preconditioner):
    """No preconditioner."""

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        return lambda residual: residual, 0


def prepared(
    strategy: Preconditioner, given: LinearMap | None, operator: Operator, rhs: PyTree
) -> tuple[LinearMap, int]:
    """The preconditioner of one solve: the one given to the call, else the one of the strategy."""
    if given is not None:
        return given, 0
    return strategy.prepare(operator, tree.as_vector(rhs))
