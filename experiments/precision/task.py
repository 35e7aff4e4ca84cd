"""How precise the Jacobian of a solution is when the solution is not: ridge regression with its study of precision."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np

from bilevel.foundation.progress import followed
from bilevel.task import Task
from bilevel.tasks import pictures
from bilevel.tasks.ridge import ridge

from .jacobian_errors import STUDIED, Curves, precision_curves


def precision(
    *,
    data: str = "diabetes",
    root: str = "",
    train: int = 200,
    validation: int = 100,
    stop: int = 0,
    start: float = 0.0,
    iterations: int = 300,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """The task `ridge`, and how precise Jacobians at inexact solutions are at its first penalties, on all samples.

    What is studied, at each of ``iterations`` steps of gradient descent (proximal gradient for the last): the Jacobian
    of the solution with respect to one penalty a feature, of ridge regression, logistic regression (is the target above
    its median?) and L1 + ridge regression. Summary: slope_implicit (of the error of the implicit Jacobian against that
    of the iterate; ridge), slope_refined (after one Newton step; logistic, as on ridge that step is exact),
    bound_violations (iterates with an error above the theorem's bound, all three), and more by problem.

    Source: Blondel et al., 2021, theorem 1 and figure 3.
    """
    learned = ridge(
        data=data,
        root=root,
        train=train,
        validation=validation,
        stop=stop,
        start=start,
        seed=seed,
        precision=precision,
    )

    @cache
    def found() -> dict[str, Curves]:
        curves = lambda problem: precision_curves(problem, data, root, float(np.exp(start)), iterations)
        return {problem: curves(problem) for problem in followed(tuple(STUDIED), "problems of the study")}

    return replace(
        learned,
        baselines=lambda: {**learned.baselines(), **figures_of(found())},
        figures={
            **learned.figures,
            "precision": lambda result: pictures.curves(
                curves_for_picture(found()), "error of the iterate", "error of the Jacobian"
            ),
        },
        name="precision",
    )


def curves_for_picture(curves: dict[str, Curves]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(iterate's error, Jacobian's error) by problem and kind of Jacobian."""
    kinds = ("unrolled", "bound", "implicit", "refined")
    return {
        problem: {kind: (np.asarray(one.iterate), np.asarray(getattr(one, kind))) for kind in kinds}
        for problem, one in curves.items()
    }


def figures_of(curves: dict[str, Curves]) -> dict[str, float]:
    """The numbers of the summary."""
    numbers: dict[str, float] = {
        "slope_implicit": curves["ridge"].slope(curves["ridge"].implicit),
        "slope_refined": curves["logistic"].slope(curves["logistic"].refined),
        "bound_violations": sum(one.violations() for one in curves.values()),
        "refined_error_ridge": float(jnp.max(curves["ridge"].refined / curves["ridge"].scale)),
    }
    for problem, one in curves.items():
        numbers[f"slope_implicit_{problem}"] = one.slope(one.implicit)
        numbers[f"unrolled_over_implicit_{problem}"] = one.advantage()
    return numbers
