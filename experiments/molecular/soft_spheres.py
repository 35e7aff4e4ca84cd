"""Soft spheres in a periodic box: their energy, and how their equilibrium moves with the diameter of half of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import Batch, Counts, HParams, Key, Params, PyTree, Scalar
from bilevel.implicit.attach import attach
from bilevel.implicit.mapping import System
from bilevel.linear_solve import Dense
from bilevel.linear_solve.base import Operator
from bilevel.optimality import Stationary
from bilevel.problem import InnerProblem
from bilevel.solvers import FIRE, State

REFERENCE = 0.6  # the diameter whose box gives the unit of the coordinates
RIGID = 1e-8  # eigenvalues of the Hessian below this share of the largest are motions that cost no energy
POLISHES = 4


@dataclass(frozen=True, eq=False)
class Equilibrium(Stationary):
    """Stationarity of an energy with a known ``hessian(positions, diameter)`` (2n, 2n), which is singular:
    translations, and motions of spheres without contact, cost no energy."""

    hessian: Callable[..., jax.Array]

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        matrix = self.hessian(params, args[0])
        product = lambda x: (matrix @ x.ravel()).reshape(x.shape)
        return System(
            Operator(product, symmetric=True, singular=True, owner=str(self)),
            lambda rhs: rhs,
            lambda _, solution: solution,
        )


@dataclass(frozen=True)
class SoftSpheres:
    """E(x, D) = sum over pairs of 1/2 max(0, 1 - r/s)^2, s the mean of the two diameters; half have 1, half D.

    ``particles`` in a periodic square whose area gives the packing fraction ``fraction`` at every D; positions (n, 2)
    are in units in which the box at D = 0.6 has its true length, and the box always the same.
    """

    particles: int = 128
    fraction: float = 0.98

    def box(self, diameter: float | jax.Array) -> jax.Array:
        """The side of the box."""
        return jnp.sqrt(0.5 * self.particles * jnp.pi * (1 + diameter**2) / 4 / self.fraction)

    def apart(self, positions: jax.Array, diameter: float | jax.Array) -> tuple[jax.Array, jax.Array]:
        """The vectors between all pairs (n, n, 2), by the shortest way, and their lengths (1 of a sphere to itself)."""
        scaled = positions / self.box(REFERENCE)
        vectors = scaled[:, None, :] - scaled[None, :, :]
        vectors = self.box(diameter) * (vectors - jnp.round(vectors))
        square = jnp.sum(vectors**2, axis=-1)
        return vectors, jnp.sqrt(jnp.where(jnp.eye(self.particles, dtype=bool), 1.0, square))

    def reach(self, diameter: float | jax.Array) -> jax.Array:
        """The distance s at which pairs begin to touch (n, n); 0 of a sphere with itself."""
        size = jnp.where(jnp.arange(self.particles) < self.particles // 2, 1.0, diameter)
        return 0.5 * (size[:, None] + size[None, :]) * (1 - jnp.eye(self.particles))

    def gaps(self, positions: jax.Array, diameter: float | jax.Array) -> jax.Array:
        """1 - r/s of all pairs (n, n): positive where two spheres touch."""
        reach = self.reach(diameter)
        itself = reach == 0
        return jnp.where(itself, 0.0, 1 - self.apart(positions, diameter)[1] / jnp.where(itself, 1.0, reach))

    def hessian(self, positions: jax.Array, diameter: float | jax.Array) -> jax.Array:
        """The second derivative of the energy in the positions (2n, 2n), pair by pair: with the direction u of a pair,
        1/s^2 u u' - gap/(s r) (1 - u u')."""
        vectors, lengths = self.apart(positions, diameter)
        gaps, reach = self.gaps(positions, diameter), self.reach(diameter)
        touching = gaps > 0
        reach = jnp.where(touching, reach, 1.0)
        along = vectors[..., :, None] * vectors[..., None, :] / lengths[..., None, None] ** 2
        stiff = jnp.where(touching, 1 / reach**2, 0.0)[..., None, None] * along
        loose = jnp.where(touching, gaps / (reach * lengths), 0.0)[..., None, None] * (jnp.eye(2) - along)
        blocks = stiff - loose
        whole = jnp.einsum("ij,iab->ijab", jnp.eye(self.particles), jnp.sum(blocks, axis=1)) - blocks
        size = 2 * self.particles
        return (self.box(diameter) / self.box(REFERENCE)) ** 2 * whole.transpose(0, 2, 1, 3).reshape(size, size)

    def energy(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return 0.25 * jnp.sum(jnp.maximum(self.gaps(params, hparams), 0.0) ** 2)

    def contacts(self, positions: jax.Array, diameter: float | jax.Array) -> jax.Array:
        """Which pairs touch (n, n)."""
        return self.gaps(positions, diameter) > 0

    def random(self, key: Key, hparams: HParams) -> Params:
        """Positions drawn uniformly in the box."""
        return self.box(REFERENCE) * jax.random.uniform(key, (self.particles, 2), jnp.result_type(float))

    def problem(self, steps: int = 5000, tol: float = 1e-10) -> InnerProblem:
        """The equilibrium as an inner problem, found by FIRE."""
        return InnerProblem(
            loss=self.energy,
            init=self.random,
            solver=FIRE(max_steps=steps, tol=tol),
            optimality=Equilibrium(self.energy, self.hessian),
        )

    def sensitivity(self, positions: jax.Array, diameter: float | jax.Array) -> jax.Array:
        """d positions / d diameter (n, 2) of the equilibrium, without the motions that cost no energy.

        One forward derivative of the optimality condition, of which the solution of least norm is taken.
        """
        at = lambda moved: attach(Equilibrium(self.energy, self.hessian), Dense(), positions, (moved, ()))
        return jax.jvp(at, (jnp.asarray(diameter, positions.dtype),), (jnp.ones((), positions.dtype),))[1]

    def polished(self, positions: jax.Array, diameter: float | jax.Array) -> jax.Array:
        """Newton steps of least norm from near an equilibrium, to the rounding of the forces."""

        def step(_: int, x: jax.Array) -> jax.Array:
            values, vectors = jnp.linalg.eigh(self.hessian(x, diameter))
            stiff = values > RIGID * values[-1]
            force = vectors.T @ jax.grad(self.energy)(x, diameter, ()).ravel()
            return x - (vectors @ jnp.where(stiff, force / jnp.where(stiff, values, 1), 0)).reshape(-1, 2)

        return jax.lax.fori_loop(0, POLISHES, step, positions)


class Paths(NamedTuple):
    """What became of each seed, at a growing number of steps: arrays (times, seeds, ...)."""

    steps: np.ndarray  # (times,)
    force: jax.Array  # the largest force
    unrolled: jax.Array  # the L1 norm of d positions / d diameter through the steps
    implicit: jax.Array  # the same of the implicit derivative at the positions; NaN where its solve failed
    positions: jax.Array  # (seeds, n, 2), at the end


def paths(spheres: SoftSpheres, seeds: int, steps: int, times: int, diameter: float = REFERENCE) -> Paths:
    """FIRE from ``seeds`` random starts, its derivative through the steps beside it, looked at ``times`` times."""
    inner = spheres.problem(steps)
    solver, stretch = inner.solver, steps // times

    def run(key: Key, diameter: jax.Array) -> jax.Array:
        """Positions at ``times`` times (times, n, 2); the start does not depend on the diameter."""
        instance = inner.at(diameter, ())

        def step(memory: tuple, _: None) -> tuple[tuple, None]:
            after = solver.step(instance, State(memory[0], jnp.zeros_like(diameter), Counts(), memory[1]))
            return (after.params, after.memory), None

        def look(memory: tuple, _: None) -> tuple[tuple, jax.Array]:
            memory, _ = jax.lax.scan(step, memory, length=stretch)
            return memory, memory[0]

        start = solver.init(instance, spheres.random(key, diameter))
        return jax.lax.scan(look, (start.params, start.memory), length=times)[1]

    def derivative(key: Key) -> tuple[jax.Array, jax.Array]:
        one = jnp.ones((), jnp.result_type(float))
        positions, tangents = jax.jvp(lambda moved: run(key, moved), (diameter * one,), (one,))
        return positions, jnp.sum(jnp.abs(tangents), axis=(1, 2))

    def measured(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        force = jnp.max(jnp.abs(jax.grad(spheres.energy)(positions, diameter, ())))
        return force, jnp.sum(jnp.abs(spheres.sensitivity(positions, diameter)))

    keys = jax.random.split(jax.random.key(0), seeds)
    positions, unrolled = jax.jit(jax.vmap(derivative, out_axes=1))(keys)
    force, implicit = jax.jit(lambda at: jax.lax.map(lambda row: jax.lax.map(measured, row), at))(positions)
    return Paths(stretch * np.arange(1, times + 1), force, unrolled, implicit, positions[-1])


def differences(spheres: SoftSpheres, positions: jax.Array, diameter: float, reach: float) -> tuple[jax.Array, ...]:
    """At a polished equilibrium: d positions / d diameter (n, 2) by implicit differentiation; by central differences of
    equilibria at diameter +- ``reach``; whether these have the same contacts."""
    moved = [spheres.polished(positions, diameter + sign * reach) for sign in (1, -1)]
    central = (moved[0] - moved[1]) / (2 * reach)
    contacts = [spheres.contacts(at, diameter + sign * reach) for at, sign in zip(moved, (1, -1), strict=True)]
    same = jnp.all(contacts[0] == contacts[1]) & jnp.all(contacts[0] == spheres.contacts(positions, diameter))
    return spheres.sensitivity(positions, diameter), central, same
