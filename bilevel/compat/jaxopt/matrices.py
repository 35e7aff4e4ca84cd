"""The parts of a program, given as arrays, trees, products or functions, as flat arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.sparse import JAXSparse
from jax.flatten_util import ravel_pytree

from bilevel.compat.jaxopt.common import Solver
from bilevel.compat.jaxopt.linear_solve import Called, linear_solver
from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import PyTree
from bilevel.layers import quadratic_program
from bilevel.linear_solve import AutoLinear, materialize
from bilevel.solvers.solution import Solution

Rows: TypeAlias = tuple[Any, Any]  # a matrix and a right-hand side, or two None


SOLVED, INFEASIBLE, UNBOUNDED, UNSOLVED = 1, 3, 2, 0  # BoxOSQP's numbers for its status


class ProgramState(NamedTuple):
    """What is known of a program's solution. ``error`` is bilevel's relative residual."""

    iter_num: jax.Array
    error: jax.Array
    status: Any  # BoxOSQP's number in OSQP and BoxOSQP, else a `bl.Status`
    solution: Solution | None  # None before the solve


class QuadraticSolver(Solver):
    """The part that all programs share."""

    def solved(self, Q: Any, c: Any, equalities: Rows, inequalities: Rows) -> tuple[Solution, ProgramState]:
        """The solution of min x'Qx/2 + c'x, A x = b, G x <= h, as flat arrays."""
        asked = linear_solver(self.implicit_diff_solve)
        solve = AutoLinear() if isinstance(asked, Called) else asked
        found = quadratic_program(Q, c, *equalities, *inequalities, linear_solve=solve)
        residual = jax.lax.stop_gradient(found.residual)
        return found, ProgramState(found.steps, residual, found.status, found)


class Program(NamedTuple):
    """The quadratic objective x'Qx/2 + c'x of a flat x, and the tree that x stands for."""

    Q: jax.Array
    c: jax.Array
    unravel: Callable[[jax.Array], PyTree]


class FlatRows(NamedTuple):
    """Rows A x (= or <=) b, and the tree that b stands for."""

    rows: Rows
    unravel: Callable[[jax.Array], PyTree]

    def zeros(self) -> PyTree:
        """A multiplier of zeros."""
        return self.unravel(jnp.zeros_like(self.rows[1]))


@dataclass(frozen=True)
class Equalities:
    """x -> A x: ``matvec(A, x)``, or leaf by leaf jnp.dot(A, x)."""

    matvec: Callable | None
    parameters: Any

    def __call__(self, x: PyTree) -> PyTree:
        if self.matvec is not None:
            return self.matvec(self.parameters, x)
        if isinstance(self.parameters, JAXSparse):
            return self.parameters @ x
        return jax.tree.map(jnp.dot, self.parameters, x)


def objective_of(matvec: Callable | None, fun: Callable | None, params_obj: Any, start: Any) -> Program:
    """The objective from (Q, c), from products matvec(params_Q, x) and c, or from a quadratic fun(x, params_obj)."""
    if fun is None:
        params_Q, c = params_obj
        c = trees.strong(c)
        flat, unravel = ravel_pytree(c)
        Q, _ = materialize(Equalities(matvec, params_Q), c)
        return Program(_flat_matrix(Q, flat), flat, unravel)
    if matvec is not None:
        raise ValueError("Give fun or matvec_Q, not both: each of them states the quadratic part alone.")
    if start is None:
        raise ValueError("A program stated by fun takes the shape of its unknown from init_params: give them.")
    start = trees.strong(start)
    zero, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, start))
    slope = lambda x: ravel_pytree(jax.grad(fun)(unravel(x), params_obj))[0]
    c, curve = jax.linearize(slope, zero)
    Q, _ = materialize(curve, zero)
    return Program(Q, c, unravel)


def flat_rows(matvec: Callable | None, given: Any, program: Program) -> FlatRows:
    """Rows from (A, b), or from products matvec(params_A, x) and b; none where ``given`` is None."""
    if given is None:
        return FlatRows((None, None), lambda _: None)
    A, b = given
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, program.c.dtype), b))
    image = Equalities(matvec, A)
    columns = jax.vmap(lambda x: ravel_pytree(image(program.unravel(x)))[0])(jnp.eye(program.c.size, dtype=flat.dtype))
    return FlatRows((columns.T, jnp.broadcast_to(flat, columns.shape[1:])), unravel)


def _flat_matrix(Q: jax.Array, flat: jax.Array) -> jax.Array:
    return jnp.asarray(Q, flat.dtype)


def numbered(status: Status) -> jax.Array:
    """A status as BoxOSQP's number."""
    code = status.code
    number = jnp.where(status.ok, SOLVED, UNSOLVED)
    return jnp.where(code == Code.infeasible, INFEASIBLE, jnp.where(code == Code.unbounded, UNBOUNDED, number))
