"""Writes configs/choices.json: optax's optimisers and schedules, our solvers and linear solvers, by name.

python scripts/choices.py            # writes the file
python scripts/choices.py --check    # exits with 1 where the file is not what the libraries have

The command line reads the file, so that ``optimizer=lion`` and ``--help`` load neither optax nor jax.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

import bilevel as bl

FILE = Path(__file__).resolve().parent.parent / "configs" / "choices.json"
RATE, STEPS, NEEDED = "${preferred.learning_rate}", "${trainer.steps}", "???"
RATES = ("learning_rate", "init_value", "peak_value", "value", "max_learning_rate")
LENGTHS = ("decay_steps", "transition_steps")
PLAIN = (bool, int, float, str)
ABOUT = {  # what each of ours is for; the first lines of their docstrings are equations, which a list cannot hold
    "active_set_newton": "any penalty or set with a prox, to high accuracy: Newton steps on its face",
    "anderson": "fixed points of many unknowns: the last differences are combined",
    "anderson_wrapper": "accelerates the steps of another solver as Anderson's method does",
    "armijo_sgd": "smooth losses on minibatches: the step is halved until the loss falls",
    "auto": "chosen from the structure of the inner problem",
    "block_coordinate_descent": "separable penalties and sets of rows: one block after the other",
    "broyden": "residuals, without derivatives: the Jacobian's inverse is approximated",
    "dogleg": "sums of squares: between gradient and Gauss-Newton step, in a trust region",
    "fire": "energies of particle systems: accelerated relaxation",
    "fixed_point_iteration": "fixed points of a contraction: the map is applied again and again",
    "gauss_newton": "sums of squares: the step of the linear model, halved until the loss falls",
    "gradient_descent": "smooth losses: steps along the gradient, of a size found by backtracking",
    "interior_point": "constraints by functions, convex quadratic programs: Mehrotra's method",
    "lbfgs": "smooth losses of many unknowns: limited-memory BFGS with a line search",
    "lbfgsb": "smooth losses of many unknowns in a box: limited-memory BFGS",
    "levenberg_marquardt": "sums of squares, free or in a box: damped Gauss-Newton steps",
    "mirror_descent": "rows in a simplex and positive unknowns: multiplicative steps",
    "newton": "smooth losses or residuals, up to some hundreds of unknowns",
    "operator_splitting": "large convex programs over cones: products with their matrices alone",
    "optax": "smooth losses: the updates of an optimiser of optax",
    "optimistix": "losses and residuals: a minimiser or a root finder of Optimistix",
    "polyak_sgd": "smooth losses whose least value is known: Polyak's step size",
    "projected_newton": "losses in a box, convex or not, up to some hundreds of unknowns",
    "proximal_gradient": "any penalty or set with a prox: accelerated with restarts",
    "proximal_newton": "separable penalties and boxes: a model with the matrix of the Hessian",
    "scipy": "losses and residuals: scipy.optimize.minimize or root, on the host",
    "scipy_least_squares": "sums of squares: scipy.optimize.least_squares, on the host",
    "spectral_proximal_gradient": "any penalty or set with a prox: the step size comes from the last curvature",
    "working_set": "sparse solutions of losses of a linear map: few rows at a time",
    "auto_linear": "chosen from the size of the system and from the facts that its owner declares",
    "bicgstab": "any square matrix: two products a step, eight vectors of memory",
    "block_cg": "symmetric and definite, many right-hand sides: one Krylov space for all",
    "cg": "symmetric and definite, of either sign: conjugate gradients",
    "damped": "nearly singular: another solver on A + damping I",
    "dense": "up to a few thousand unknowns: the matrix is built and factored",
    "gmres": "any square matrix: the memory of restart=50 vectors",
    "minres": "symmetric, definite or not",
    "neumann": "very large and contracting: a truncated series of terms=20 products",
    "normal": "singular or rectangular: the least-squares solution of least norm",
    "nystrom": "positive semidefinite of low rank: randomised, without iteration",
}
START = {"vector": jnp.array([1.0, -2.0, 3.0]), "matrix": jnp.arange(1.0, 5.0).reshape(2, 2)}
Fields = dict[str, Any]


def choices() -> dict[str, dict[str, Any]]:
    """{group: {name: {about, node}}}."""
    return {
        "optimizer": dict(optimizers()),
        "schedule": dict(schedules()),
        "solver": dict(classes(bl.solvers, bl.Solver)),
        "linear_solve": dict(classes(bl.linear_solve, bl.LinearSolver)),
    }


def optimizers() -> Iterator[tuple[str, Any]]:
    """The functions of optax and optax.contrib that give an optimiser from a learning rate, or from nothing."""
    for module in (optax, optax.contrib):
        for name, function in functions(module):
            target = f"{module.__name__}.{name}"
            home = function.__module__
            alias = home.endswith("._src.alias") or (home.startswith("optax.contrib") and module is optax.contrib)
            fields = fields_of(function)
            part = name.startswith("scale_by_")  # of an optimiser
            if alias and not part and NEEDED not in fields.values() and descends(tried(function, fields)):
                yield name, entry(target, function, fields)


def schedules() -> Iterator[tuple[str, Any]]:
    """The functions of optax that give a learning rate for each step; what they need beyond rate and length is "???"
    and has to be given."""
    for name, function in functions(optax):
        if function.__module__.endswith("._schedule") and "schedules" not in name and "inject" not in name:
            yield name.removesuffix("_schedule"), entry(f"optax.{name}", function, fields_of(function))


def classes(module: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """The classes of a kind that can be made without an argument, with their plain fields."""
    for name in sorted(module.__all__):
        made = getattr(module, name)
        if not (inspect.isclass(made) and issubclass(made, kind)) or inspect.isabstract(made):
            continue
        try:
            instance: Any = made()
        except TypeError:  # it needs what a setting cannot say: a function, an optimiser
            continue
        values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
        fields = {key: value for key, value in values.items() if isinstance(value, PLAIN)}
        target = f"bilevel.{name}" if name in bl.__all__ else f"{module.__name__}.{name}"
        yield snake(name), {"about": ABOUT[snake(name)], "node": {"_target_": target, **fields}}


def functions(module: Any) -> Iterator[tuple[str, Callable]]:
    for name in sorted(dir(module)):
        function = getattr(module, name)
        if inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


def fields_of(function: Callable) -> Fields:
    """The arguments whose defaults are plain values. Rates and lengths refer to the settings of the run."""
    fields: Fields = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if default is inspect.Parameter.empty:
            fields[name] = RATE if name in RATES else STEPS if name in LENGTHS else NEEDED
        elif isinstance(default, PLAIN):
            fields[name] = default
    return fields


def descends(made: Any) -> bool:
    """Whether something is an optimiser: two of its steps lower ||x||^2 / 2. Parts of optimisers, which scale gradients
    without turning them round, do not."""
    if not isinstance(made, optax.GradientTransformation):
        return False
    value: Callable[[Any], Any] = lambda x: 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))
    point, update = START, optax.with_extra_args_support(made).update
    try:
        state = made.init(point)
        for _ in range(2):
            extra = {"value": value(point), "grad": point, "value_fn": value}
            step, state = update(point, state, point, **extra)
            point = optax.apply_updates(point, step)
    except Exception:  # it needs what an outer loop does not give
        return False
    return bool(value(point) < value(START))


def tried(function: Callable, fields: Fields) -> Any:
    """What a function returns; None where it raises or warns, as of an argument that it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return function(**{name: 0.1 if value == RATE else value for name, value in fields.items()})
        except Exception:
            return None


def entry(target: str, thing: Any, fields: Fields) -> dict[str, Any]:
    line = (inspect.getdoc(thing) or "").strip().partition("\n")[0]
    about = re.sub(r"[`*]|:\w+:", "", line).rstrip(".")
    return {"about": about, "node": {"_target_": target, **fields}}


def snake(name: str) -> str:
    """The name of a class as that of a setting.

    >>> snake("ActiveSetNewton"), snake("LBFGSB"), snake("BiCGStab")
    ('active_set_newton', 'lbfgsb', 'bicgstab')
    """
    name = name.replace("BiCGStab", "Bicgstab").replace("SciPy", "Scipy").replace("BlockCG", "Block_cg")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def text() -> str:
    return json.dumps(choices(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # some first steps are shorter than the precision of float32
    if "--check" in sys.argv:
        sys.exit(int(FILE.read_text(encoding="utf-8") != text()))
    FILE.write_text(text(), encoding="utf-8")
