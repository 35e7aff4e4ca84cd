"""The engine chosen by measurements of the problem."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.batches import Minibatch
from bilevel.engines.base import Carry, Engine, Point, Report, check_policy, cold_start, settings
from bilevel.engines.implicit_function.implicit import Implicit
from bilevel.engines.stochastic.saba import SABA
from bilevel.engines.stochastic.single_loop import SOBA
from bilevel.engines.unrolling.iterative import Forward, Unrolled
from bilevel.foundation import trees
from bilevel.foundation.closures import depends
from bilevel.foundation.readable import counted
from bilevel.foundation.typing import HParams, LinearMap, PyTree, Scalar
from bilevel.linear_solve import CG, GMRES, MINRES, Dense, LinearSolver, RandomizedNystrom
from bilevel.task import Task

LANCZOS = 24  # products spent on the spectrum
DENSE = 1024  # unknowns up to which building and factoring the system is preferred
RESOLVED = 110  # beyond this ratio of Ritz values CG would be slow, and so few steps have not resolved the spectrum
FEW = 20  # hyperparameters up to which forward mode is preferred to reverse mode through steps


class Facts(NamedTuple):
    """The facts that decide the choice."""

    unknowns: int
    hyperparameters: int
    itemsize: int
    symmetric: bool
    smooth: bool
    minibatches: bool
    through_condition: bool  # whether the optimality condition depends on the hyperparameters at all
    budget: int  # the steps of a training, which looks for no solution; 0 else


@settings
@dataclass(frozen=True)
class AutoEngine(Engine):
    """Chooses the engine by size, number of hyperparameters, smoothness, spectrum and memory, and prints why.

    ========================================================  =================================================
    a training, or a condition that does not depend on them   `Forward` (few) or `Unrolled`: only the steps know
    minibatches of a smooth loss                              `SABA` where its tables fit, else `SOBA`
    up to 1,024 unknowns that fit the memory                  `Implicit` with `Dense`
    symmetric, by a few Lanczos steps: indefinite             `Implicit` with `MINRES`
    symmetric, Ritz values spread by 110 and more             `Implicit` with `CG` and a randomised Nystrom inverse
    symmetric otherwise                                       `Implicit` with `CG`
    anything else                                             `Implicit` with `GMRES`
    ========================================================  =================================================

    ``memory_budget`` is in bytes. Inside another trace no value is known, so the spectrum is not measured.
    """

    memory_budget: float = 2e9
    on_failure: str = "raise"
    quiet: bool = False
    chooses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)

    def first_carry(self, task: Task, point: Point) -> Carry:
        return self.decide(task, point)[0].first_carry(task, point)

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        return self.decide(task, point)[0].hypergradient(task, point, carry)

    def choose(self, task: Task, point: Point) -> tuple[Engine, str]:
        """The engine, with its reason, which is printed (on stderr) unless ``quiet``."""
        engine, reason = self.decide(task, point)
        if not self.quiet:
            print(f"bl.AutoEngine: {reason}.", file=sys.stderr)
        return engine, reason

    def decide(self, task: Task, point: Point) -> tuple[Engine, str]:
        """The engine and the reason for it, in a sentence."""
        facts = facts_of(task, point)
        size = f"{counted(facts.unknowns, 'unknown')}, {counted(facts.hyperparameters, 'hyperparameter')}"
        if facts.budget or not facts.through_condition:
            few = facts.hyperparameters <= FEW
            engine = Forward(on_failure=self.on_failure) if few else Unrolled(on_failure=self.on_failure)
            training = f"a training of {facts.budget} steps has no other derivative"
            why = training if facts.budget else "only the solver's steps depend on the hyperparameters"
            return engine, f"{type(engine).__name__}, as {why} ({size})"
        if facts.minibatches and facts.smooth:
            return self._stochastic(task, point, facts)
        if facts.unknowns <= DENSE and facts.itemsize * facts.unknowns**2 <= self.memory_budget / 4:
            return self._implicit(Dense()), f"Implicit with Dense, as the system is small ({size})"
        if not facts.symmetric:
            return self._implicit(GMRES()), f"Implicit with GMRES, as the system is not symmetric ({size})"
        return self._by_spectrum(task, point, size)

    def _implicit(self, linear_solve: LinearSolver) -> Engine:
        return Implicit(linear_solve=linear_solve, on_failure=self.on_failure)

    def _by_spectrum(self, task: Task, point: Point, size: str) -> tuple[Engine, str]:
        cold = cold_start(task, point)
        system = task.inner.at(point.hparams, point.inner_batch).system(cold)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((cold, point))):
            return self._implicit(CG()), f"Implicit with CG; the spectrum is not known inside a trace ({size})"
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(system.restrict, cold))
        low, high = extremes(system.operator, example)
        spectrum = f"Ritz values from {low:.1e} to {high:.1e} after {LANCZOS} Lanczos steps"
        if low < -1e-8 * high:
            return self._implicit(MINRES()), f"Implicit with MINRES, as the system is indefinite ({size}; {spectrum})"
        if low <= high / RESOLVED:
            solver = CG(preconditioner=RandomizedNystrom())
            return self._implicit(solver), f"Implicit with preconditioned CG: ill-conditioned ({size}; {spectrum})"
        return self._implicit(CG()), f"Implicit with CG: well-conditioned ({size}; {spectrum})"

    def _stochastic(self, task: Task, point: Point, facts: Facts) -> tuple[Engine, str]:
        rows = point.inner_batch.samples * (2 * facts.unknowns + facts.hyperparameters)
        rows += point.outer_batch.samples * (facts.unknowns + facts.hyperparameters)
        table = rows * facts.itemsize
        if table <= self.memory_budget:
            return SABA(on_failure=self.on_failure), f"SABA: minibatches, and tables of {table:.1e} bytes fit"
        return SOBA(on_failure=self.on_failure), f"SOBA: minibatches, and tables of {table:.1e} bytes do not fit"


def facts_of(task: Task, point: Point) -> Facts:
    """The facts of the problem that follow from shapes and structure."""
    cold = jax.eval_shape(lambda: cold_start(task, point))
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    operator = {}

    def system(w: PyTree) -> PyTree:
        built = task.inner.at(point.hparams, point.inner_batch).system(w)
        operator["symmetric"] = bool(built.operator.symmetric)
        return built.restrict(w)

    jax.eval_shape(system, cold)
    return Facts(
        count(cold),
        count(point.hparams),
        max(leaf.dtype.itemsize for leaf in jax.tree.leaves(cold)),
        operator["symmetric"],
        task.inner.mapping.stationary,
        isinstance(point.inner_batch, Minibatch) and not point.inner_batch.whole,
        depends(lambda h: task.inner.mapping(cold_start(task, point), h, point.inner_batch), point.hparams),
        task.inner.solver.budget,
    )


def extremes(operator: LinearMap, example: PyTree, steps: int = LANCZOS) -> tuple[float, float]:
    """The smallest and largest Ritz value of a symmetric operator, by some fully orthogonalised Lanczos steps."""
    flat, unravel = ravel_pytree(example)
    product = jax.jit(lambda x: ravel_pytree(operator(unravel(x)))[0])
    vector = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    vector = product(vector)  # into the range of a singular operator
    basis: list[np.ndarray] = []
    diagonal: list[float] = []
    beside: list[float] = []
    current = np.asarray(vector / trees.norm(vector))
    for _ in range(min(steps, flat.size)):
        basis.append(current)
        image = np.asarray(product(jnp.asarray(current)))
        diagonal.append(float(current @ image))
        for _ in range(2):
            image = image - np.array(basis).T @ (np.array(basis) @ image)
        length = float(np.linalg.norm(image))
        if length <= 1e-10 * abs(diagonal[0]):
            break
        beside.append(length)
        current = image / length
    size = len(diagonal)
    ritz = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[: size - 1], 1) + np.diag(beside[: size - 1], -1))
    return float(ritz[0]), float(ritz[-1])
