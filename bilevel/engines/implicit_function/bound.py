"""The grade "bound": a theorem about the error of a hypergradient, with the constants that it needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.engines.base import GRADES, Point
from bilevel.engines.implicit_function.linearization import Linearization
from bilevel.engines.implicit_function.rounding import rounding_of
from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, PyTree
from bilevel.penalties import Parameter, resolve
from bilevel.task import Task

MISSING = float("nan")


@dataclass(frozen=True)
class Constants:
    """Constants of a bilevel problem, for ``Implicit(accuracy="bound")``; numbers, or functions of the hyperparameters.

    With F the optimality condition (the gradient of the inner loss), A = dF/dw, B = dF/dh and g the outer loss, on a
    convex set that holds the solution and the iterate:

    - ``monotonicity`` (alpha): ||F(w) - F(w')|| >= alpha ||w - w'||, the modulus of strong convexity of the inner loss
      (of a fixed point with contraction factor q: 1 - q);
    - ``lipschitz_system`` (gamma): ||A(w) - A(w')|| <= gamma ||w - w'|| (0 for a quadratic loss);
    - ``lipschitz_cross`` (beta): ||B(w) - B(w')|| <= beta ||w - w'||;
    - ``norm_cross`` (R): ||B(w*)|| <= R at the solution;
    - ``lipschitz_outer`` (L): ||dg/dw(w) - dg/dw(w')|| <= L ||w - w'||;
    - ``lipschitz_direct`` (M): ||dg/dh(w) - dg/dh(w')|| <= M ||w - w'|| (0 where g does not see h and w together).

    Then, with the iterate error e <= ||F(w)|| / alpha, the computed adjoint u and its residual rho = dg/dw - A'u,

        ||grad - exact|| <= M e + beta e ||u|| + R / alpha (||rho|| + L e + gamma e ||u||).

    Source: Ghadimi and Wang, 2018, Lemma 2.2, in the form with an inexact adjoint (Pedregosa, 2016, Theorem 2); the
    proof is in docs/accuracy.md. In exact arithmetic: the rounding of the gradient itself is added.
    """

    monotonicity: Parameter = MISSING
    lipschitz_system: Parameter = MISSING
    lipschitz_cross: Parameter = MISSING
    norm_cross: Parameter = MISSING
    lipschitz_outer: Parameter = MISSING
    lipschitz_direct: Parameter = 0.0


def refuse_bound(task: Task, constants: Constants, refine: bool) -> None:
    """Raises ValueError where the theorem does not cover the problem, or a constant is missing."""
    missing = [one.name for one in fields(constants) if getattr(constants, one.name) != getattr(constants, one.name)]
    if missing:
        raise ValueError(
            f'accuracy="bound" needs {", ".join(missing)}: state them as bl.Implicit(constants=bl.Constants(...)), or '
            'ask for accuracy="estimate", which needs none.'
        )
    mapping = task.inner.mapping
    if not mapping.smooth:
        raise ValueError(
            f'accuracy="bound" is a theorem about smooth conditions, and {mapping} is not one: its derivative jumps '
            'from face to face. Ask for accuracy="estimate", which says how close the next face is.'
        )
    if refine:
        raise ValueError('accuracy="bound" bounds the error of the uncorrected gradient: leave out refine=True.')


def error_bound(
    constants: Constants, point: Point, at: Linearization, adjoint: PyTree, pulled: tuple[PyTree, HParams]
) -> dict[str, Any]:
    """The bound and its two parts."""
    alpha, gamma, beta, cross, outer, direct = (
        jnp.asarray(resolve(getattr(constants, one.name), point.hparams)) for one in fields(constants)
    )
    epsilon = trees.epsilon(at.params)
    error = trees.norm(at.residual) / alpha
    rest = trees.norm(trees.subtract(at.cotangent, pulled[0]))
    size = trees.norm(adjoint)
    by_inner = direct * error + beta * error * size + cross / alpha * (outer * error + gamma * error * size)
    by_adjoint = cross / alpha * rest
    rounding = 10 * epsilon * (trees.norm(at.direct) + trees.norm(pulled[1]))
    rounding += rounding_of(at.direct, epsilon) + rounding_of(pulled[1], epsilon)
    valid = (alpha > 0) & jnp.isfinite(alpha)
    return {
        "error_estimate": jnp.where(valid, by_inner + by_adjoint + rounding, jnp.inf),
        "error_inner": jax.lax.stop_gradient(by_inner),
        "error_adjoint": jax.lax.stop_gradient(by_adjoint),
        "grade": jnp.int32(GRADES.index("bound")),
    }
