"""Task-driven dictionary learning: the bilevel problem, its training, and its comparison with three other ways."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.batches import full_batch
from bilevel.engines import Carry, Implicit, Point
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.progress import followed
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.task import Task
from bilevel.tasks.grids import highest

from .comparison import Chosen, Masks, auc, chosen_auc, classifier, fits_of, log_loss, masks_of
from .sparse_codes import coding, unit, unsupervised

GRID = tuple(10.0**power for power in range(-5, 5))  # C of logistic regression on the genes
GRID_CODES = tuple(10.0**power for power in range(-1, 5))  # and on codes
SHARES = (0.05, 0.2, 0.5)  # of zeros among the first codes
ENGINE = Implicit(accuracy="residual", on_failure="warn")


class Samples(NamedTuple):
    """Genes (n, p), chosen by variance and standardised, and labels 0 and 1."""

    inputs: np.ndarray
    labels: np.ndarray


def with_head(hparams: HParams, codes: jax.Array, batch: Batch, strength: jax.Array) -> HParams:
    """The hyperparameters of the task: dictionary, and a linear classifier of the codes fitted to begin with."""
    scale = jnp.std(codes)
    head = classifier(codes.shape[1], sparse=False).solve(strength, (codes / scale, *batch[1:3])).params
    return {**hparams, "scale": scale, "head": head}


def logits(codes: jax.Array, hparams: HParams) -> jax.Array:
    return codes / jax.lax.stop_gradient(hparams["scale"]) @ hparams["head"]["slope"] + hparams["head"]["offset"]


def levels(inner: InnerProblem, begin: Callable[[Key], HParams], batch: Batch, masks: dict, **rest: Any) -> Task:
    """The bilevel problem: the logistic loss of the codes, the batch being (X, labels, weight, strength)."""

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        _, labels, weight, strength = batch
        ridge = 0.5 * strength * jnp.sum(hparams["head"]["slope"] ** 2)
        return log_loss(logits(params, hparams), labels, weight) + ridge

    def evaluate(params: Params, hparams: HParams) -> dict[str, Scalar]:
        scores = logits(params, hparams)
        return {f"{name}/auc": auc(scores, batch[1], masks[name]) for name in ("validation", "test")} | {
            "codes/zero": jnp.mean(params == 0)
        }

    return Task(
        inner=inner,
        outer_loss=outer_loss,
        init_hparams=begin,
        batches=full_batch(batch, batch),
        evaluate=evaluate,
        feasible=lambda hparams: {**hparams, "dictionary": unit(hparams["dictionary"])},
        name="dictionary",
        **rest,
    )


class State(NamedTuple):
    """What a step of the training of both levels needs: hyperparameters, Adam's moments, the starts of the solves."""

    hparams: HParams
    moments: Any
    carry: Carry


@dataclass(frozen=True)
class Comparison:
    """Test AUC of logistic regression on all genes, and on the codes of either dictionary, for one random split.

    Validation AUC chooses C, for both dictionaries the share of zeros, and when to stop the training of the task-driven
    one; the fit is repeated on training and validation samples together. The programs are compiled once for all splits.
    They are small, because one program of the whole comparison has many copies of the solves, and took twice as long to
    compile (84 against 39 processor seconds).
    """

    inputs: jax.Array
    labels: jax.Array
    atoms: int
    c: float
    steps: int
    learning_rate: float

    @cached_property
    def inner(self) -> InnerProblem:
        return coding(len(self.labels), self.atoms)

    @cached_property
    def fits(self) -> dict[str, Program]:
        """Of each classifier."""
        genes = self.inputs.shape[1]
        problems = {
            "l1": classifier(genes, True),
            "l2": classifier(genes, False),
            "codes": classifier(self.atoms, False),
        }
        return {name: fits_of(problem) for name, problem in problems.items()}

    @cached_property
    def unlabelled(self) -> Program:
        """(weight, share of zeros) -> atoms for reconstruction."""
        return Program(lambda weight, share: unsupervised(self.inner, self.inputs, weight, self.atoms, share))

    @cached_property
    def codes(self) -> Program:
        """Atoms and penalty -> codes of all samples."""
        return Program(lambda hparams: self.inner.solve(hparams, (self.inputs, self.labels)).params)

    @cached_property
    def first(self) -> Program:
        """(atoms, their codes, weight) -> the first state of the training."""

        def first(hparams: HParams, codes: jax.Array, weight: jax.Array) -> State:
            batch = self.batch(weight)
            start = with_head(hparams, codes, batch, batch[3])
            task = levels(self.inner, lambda key: start, batch, {})
            carry = ENGINE.first_carry(task, Point(start, batch, batch, jax.random.key(0)))
            return State(start, optax.adam(self.learning_rate).init(start), carry)

        return Program(first)

    @cached_property
    def step(self) -> Program:
        """(state, weight) -> (the next state, the codes of this one): Adam on both levels."""

        def step(state: State, weight: jax.Array) -> tuple[State, jax.Array]:
            batch = self.batch(weight)
            task = levels(self.inner, lambda key: state.hparams, batch, {})
            grad, report = hypergradient(task, state.hparams, ENGINE, batch=(batch, batch), carry=state.carry)[1:]
            updates, moments = optax.adam(self.learning_rate).update(grad, state.moments)
            moved: Any = optax.apply_updates(state.hparams, updates)
            return State(task.feasible(moved), moments, report.carry), report.params

        return Program(step)

    @cached_property
    def judged(self) -> Program:
        """(codes, hparams, mask) -> AUC and loss on the samples of the mask."""

        def judged(codes: jax.Array, hparams: HParams, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores = logits(codes, hparams)
            return auc(scores, self.labels, mask), log_loss(scores, self.labels, mask)

        return Program(judged)

    def batch(self, weight: jax.Array) -> Batch:
        return self.inputs, self.labels, weight, 1 / (self.c * jnp.sum(weight))

    def split(self, masks: Masks) -> dict[str, float]:
        """Test AUC by the names of the ways, ``zero``, ``steps``, and ``left_out``: scores that were no numbers."""
        found = {name: chosen_auc(self.fits[name], self.inputs, self.labels, masks, GRID) for name in ("l1", "l2")}
        found["dictionary"] = self.without_labels(masks)
        driven = self.task_driven(masks)
        left_out = driven.pop("left_out") + sum(chosen.left_out for chosen in found.values())
        return {**{name: chosen.test for name, chosen in found.items()}, **driven, "left_out": left_out}

    def without_labels(self, masks: Masks) -> Chosen:
        """The atoms see training and validation samples, the classifier of their codes as above."""

        def of(share: float) -> Chosen:
            codes = self.codes(self.unlabelled(masks["train"] + masks["validation"], share))
            return chosen_auc(self.fits["codes"], codes / jnp.std(codes), self.labels, masks, GRID_CODES)

        found = [of(share) for share in SHARES]
        best = highest([chosen.validation for chosen in found])
        left_out = sum(chosen.left_out for chosen in found)
        return Chosen(best.score, found[best.index].test, left_out)

    def task_driven(self, masks: Masks) -> dict[str, float]:
        paths = [self.path(masks, share) for share in SHARES]
        best = highest([score for path in paths for score in path])
        number, steps = divmod(best.index, self.steps + 1)
        both = masks["train"] + masks["validation"]
        state = self.begin(both, SHARES[number])
        for _ in range(steps):
            state = self.step(state, both)[0]
        codes = self.codes({name: state.hparams[name] for name in ("dictionary", "l1")})
        found = float(self.judged(codes, state.hparams, masks["test"])[0]) if math.isfinite(best.score) else math.nan
        zero = float(np.mean(np.asarray(codes) == 0))
        return {"task_driven": found, "zero": zero, "steps": steps, "left_out": best.left_out}

    def path(self, masks: Masks, share: float) -> list[float]:
        """Validation AUC at each step; less a little for the loss there, which decides between equal ones."""
        state, scores = self.begin(masks["train"], share), []
        for _ in range(self.steps + 1):
            after, codes = self.step(state, masks["train"])
            found, loss = self.judged(codes, state.hparams, masks["validation"])
            scores.append(float(found) - 1e-6 * min(float(loss), 1e3))
            state = after
        return scores

    def begin(self, weight: Any, share: float) -> State:
        hparams = self.unlabelled(weight, share)
        return self.first(hparams, self.codes(hparams), weight)


def compared_splits(
    found: Samples, atoms: int, c: float, splits: int, steps: int, learning_rate: float
) -> Iterator[dict[str, float]]:
    """A `Comparison` for each of ``splits`` random splits 60/20/20, one after the other; compiled once."""
    comparison = Comparison(jnp.asarray(found.inputs), jnp.asarray(found.labels), atoms, c, steps, learning_rate)
    for seed in followed(range(splits), "splits"):
        figures = comparison.split(masks_of(found.labels, seed))
        if left_out := int(figures.pop("left_out")):
            warnings.warn(
                f"{left_out} validation scores of split {seed} are no finite numbers and are left out of the choice.",
                stacklevel=2,
            )
        yield figures
