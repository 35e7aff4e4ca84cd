"""Operator splitting (ADMM) for large convex programs, by products with their matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts
from bilevel.implicit.attach import solve_system
from bilevel.kernels.equilibrate_operators import equilibrium, single, squares_by_products, units
from bilevel.kernels.splitting import (
    Point,
    Quadratic,
    Scales,
    Units,
    adapted,
    advance,
    certificate,
    from_scaled,
    scaled,
    sizes,
    to_scaled,
)
from bilevel.linear_solve import AutoLinear
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.programs.split_program import STIFF, split_program
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver
from bilevel.solvers.programs.stated_by_functions import program_of

FIRST_RHO = 0.1  # OSQP's; adapted after each step
NEAR = 1e-2  # polishing is tried below this share of the first residual


class Memory(NamedTuple):
    point: Point  # in scaled coordinates
    scales: Scales
    units: Units
    rho: jax.Array
    tried: jax.Array  # the residual at the last trial of polishing


@settings
@dataclass(frozen=True)
class OperatorSplitting(Solver, ProgramSolver):
    """The alternating direction method of multipliers for convex quadratic programs over cones, matrix-free.

        min 1/2 x'Px + q'x  s.t.  A x + s = b, s in K:    (P + sigma I + A'RA) u = sigma x - q + A'(R z - y),
        x <- u relaxed,  z <- b - proj_K(b - A u relaxed - R^{-1} y),  y <- y + R (A u relaxed - z)

    A step is ``iterations`` of these, after which R = rho diag(weights) is adapted to the two residuals. The program is
    equilibrated first; the linear system is solved by a Cholesky factor up to ``factored`` unknowns (dense matrices),
    beyond and for sparse ones by conjugate gradients, from products alone. Near a solution ``polish`` tries Newton
    steps on the reduced KKT system, which is also the system of the derivative: they end at full accuracy where the
    active rows are known.

    Takes `bl.quadratic_program` and `bl.cone_program`, whose matrices may be dense or `BCOO`, with any cone; and
    problems constrained by `bl.Functional`, by products only, without a matrix. These are meant to have affine
    constraints and a quadratic loss; other functions are linearised (the loss to second order) again at each step,
    without a safeguard. Ends ``infeasible`` or ``unbounded`` on a certificate, see `kernels.splitting.certificate`.
    Source: Stellato, Banjac, Goulart, Bemporad and Boyd, OSQP, 2020; Schubiger, Banjac and Lygeros, 2020.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> solution = bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.ones((1, 2)), h=jnp.ones(1),
    ...                                 solver=bl.OperatorSplitting())
    >>> solution.params.round(5).tolist(), solution.status.name
    ([0.5, 0.5], 'converged')
    """

    max_steps: int = 400
    tol: float | jax.Array = 1e-10
    iterations: int = 25
    factored: int = 2000
    polish: bool = True
    takes_functions: ClassVar[bool] = True
    shards: ClassVar[bool] = False  # its factors are whole
    structured: ClassVar[bool] = True  # takes second derivatives of the loss itself
    unrolls: ClassVar[bool] = False

    def init(self, instance: Instance, params: PrimalDual) -> State:
        program, point, _ = _linearised(instance, params)
        squares, groups = squares_by_products(program), single(program.b.size)
        scales, measures = equilibrium(program.q, squares, groups), units(program.q, squares, groups)
        residual = instance.residual_norm(params)
        memory = Memory(
            to_scaled(point, scales), scales, measures, jnp.full_like(scales.cost, FIRST_RHO), NEAR * residual
        )
        return State(params, residual, Counts(gradients=2), memory)

    def step(self, instance: Instance, state: State) -> State:
        program, _, unpack = _linearised(instance, state.params)
        point, scales, measures, rho, tried = state.memory
        inner = scaled(program, scales)
        after = advance(inner, point, rho, self.iterations)
        code, _ = certificate(program, measures, from_scaled(point, scales), from_scaled(after, scales))
        code = jnp.where(_proves(instance, state.params), code, Code.converged)
        params = unpack(from_scaled(after, scales))
        residual = instance.residual_norm(params)
        if self.polish:
            near = (residual <= tried) & (code == Code.converged)
            better, params, residual = _polished(instance, params, residual, near)
            tried = jnp.where(near, 0.1 * residual, tried)
            program, restart, _ = _linearised(instance, params)
            after = trees.select(better, to_scaled(restart, scales), after)
        memory = Memory(after, scales, measures, adapted(rho, sizes(inner, after)), tried)
        counts = state.counts.plus(gradients=2, hessian_products=self.iterations)
        return State(params, residual, counts, memory, code)

    def refresh(self, instance: Instance, state: State) -> State:
        return self.init(instance, state.params)

    def refuse(self, instance: Instance) -> None:
        if not isinstance(instance.mapping, KKT):
            raise ValueError(
                "bl.OperatorSplitting solves problems that are constrained by functions, and this one has none. State "
                "them with constraint=bl.Functional(equality=..., inequality=...), or use bl.Auto()."
            )

    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        return split_program(program, self, start)


def _linearised(instance: Instance, params: PrimalDual) -> tuple[Quadratic, Point, Callable[[Point], PrimalDual]]:
    """The quadratic model of the problem at ``params``, the iterate there, and the map from an iterate back to
    params."""
    program, at = program_of(instance, params)
    x, nu, lam = at

    def rows(x: jax.Array) -> jax.Array:
        return jnp.concatenate([program.equality(x), program.inequality(x)])

    slope, hessian = jax.linearize(jax.grad(lambda x: program.lagrangian(x, nu, lam)), x)
    values, push = jax.linearize(rows, x)
    pull = jax.linear_transpose(push, x)
    y = jnp.concatenate([nu, lam])
    b = push(x) - values
    equalities = jnp.arange(y.size) < nu.size

    def project(s: jax.Array) -> jax.Array:
        return jnp.where(equalities, 0, jnp.maximum(s, 0))

    def project_dual(y: jax.Array) -> jax.Array:
        return jnp.where(equalities, y, jnp.maximum(y, 0))

    model = Quadratic(
        hessian=hessian,
        rows=push,
        transposed=lambda y: pull(y)[0],
        q=slope - hessian(x) - pull(y)[0],
        b=b,
        project=project,
        project_dual=project_dual,
        weights=jnp.where(equalities, STIFF, 1.0).astype(x.dtype),
    )

    def unpack(point: Point) -> PrimalDual:
        return program.unpack(point.x, point.y[: nu.size], point.y[nu.size :])

    return model, Point(x, y, b - project(b - push(x))), unpack


def _proves(instance: Instance, params: PrimalDual) -> bool:
    """Whether a proof about the model is a proof about the problem, because the model equals the problem."""
    program, at = program_of(instance, params)
    degrees = program.degrees(at.primal)
    affine = np.all(degrees.equality == 1) and np.all(degrees.inequality == 1)
    return bool(affine and degrees.loss <= 2)


def _polished(
    instance: Instance, params: PrimalDual, residual: jax.Array, near: jax.Array
) -> tuple[jax.Array, PrimalDual, jax.Array]:
    """One Newton step on the KKT conditions where ``near``, kept if it lowers the residual."""

    def newton(_: None) -> tuple[PrimalDual, jax.Array]:
        mapping, args = instance.mapping, (instance.hparams, instance.batch)
        step = solve_system(mapping.system(params, *args), AutoLinear(tol=1e-12), mapping(params, *args))
        moved = trees.subtract(params, step)
        return moved, instance.residual_norm(moved)

    moved, after = jax.lax.cond(near, newton, lambda _: (params, residual), None)
    better = after < residual
    return better, trees.select(better, moved, params), jnp.where(better, after, residual)
