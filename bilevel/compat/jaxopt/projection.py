"""JAXopt's projections, ``projection(x, hyperparams)``, by those of `bilevel.projections`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel import projections
from bilevel.compat.jaxopt.notices import differs
from bilevel.foundation.typing import PyTree

PLANS = "the projection is exact and has no solver to make"


def projection_non_negative(x: PyTree, hyperparams: Any = None) -> PyTree:
    """On {y >= 0}."""
    return projections.non_negative(x)


def projection_box(x: PyTree, hyperparams: tuple) -> PyTree:
    """On {lower <= y <= upper}, hyperparams = (lower, upper)."""
    return projections.box(x, *hyperparams)


def projection_hypercube(x: PyTree, unit: Any = 1.0) -> PyTree:
    """On {0 <= y <= unit}."""
    return projections.hypercube(x, _or_one(unit))


def projection_simplex(x: Any, value: Any = 1.0) -> jax.Array:
    """On {y >= 0, sum of y = value}."""
    return projections.simplex(x, _or_one(value))


def projection_sparse_simplex(x: Any, max_nz: int, use_approx_max_nz: bool = False, value: Any = 1.0) -> jax.Array:
    """On {y >= 0, sum of y = value, at most max_nz entries nonzero}."""
    if use_approx_max_nz:
        differs("projection_sparse_simplex(use_approx_max_nz=True)", "the largest entries are found exactly. Leave it.")
    return projections.sparse_simplex(x, max_nz, _or_one(value))


def projection_l1_sphere(x: Any, value: Any = 1.0) -> jax.Array:
    """On {||y||_1 = value}."""
    return projections.l1_sphere(x, _or_one(value))


def projection_l1_ball(x: Any, max_value: Any = 1.0) -> jax.Array:
    """On {||y||_1 <= max_value}."""
    return projections.l1_ball(x, _or_one(max_value))


def projection_l2_sphere(x: PyTree, value: Any = 1.0) -> PyTree:
    """On {||y||_2 = value}."""
    return projections.l2_sphere(x, _or_one(value))


def projection_l2_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    """On {||y||_2 <= max_value}."""
    return projections.l2_ball(x, _or_one(max_value))


def projection_linf_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    """On {||y||_inf <= max_value}."""
    return projections.linf_ball(x, _or_one(max_value))


def projection_hyperplane(x: Any, hyperparams: tuple) -> jax.Array:
    """On {a'y = b}, hyperparams = (a, b)."""
    return projections.hyperplane(x, *hyperparams)


def projection_halfspace(x: Any, hyperparams: tuple) -> jax.Array:
    """On {a'y <= b}, hyperparams = (a, b)."""
    return projections.halfspace(x, *hyperparams)


def projection_affine_set(x: Any, hyperparams: tuple) -> jax.Array:
    """On {A y = b}, hyperparams = (A, b)."""
    return projections.affine_set(x, *hyperparams)


def projection_polyhedron(x: Any, hyperparams: tuple, check_feasible: bool = True) -> jax.Array:
    """On {A y = b, G y <= h}, hyperparams = (A, b, G, h); ``check_feasible`` raises ValueError for an empty set."""
    return _checked(projections.polyhedron(x, *hyperparams), x, check_feasible, "projection_polyhedron")


def projection_box_section(x: Any, hyperparams: tuple, check_feasible: bool = False) -> jax.Array:
    """On {lower <= y <= upper, w'y = c}, hyperparams = (lower, upper, w, c)."""
    return _checked(projections.box_section(x, *hyperparams), x, check_feasible, "projection_box_section")


def projection_transport(
    sim_matrix: Any, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> jax.Array:
    """On the plans with the marginals (rows, columns)."""
    _exact("projection_transport", make_solver)
    return projections.transport(sim_matrix, *marginals)


def projection_birkhoff(sim_matrix: Any, make_solver: Callable | None = None, use_semi_dual: bool = True) -> jax.Array:
    """On the doubly stochastic matrices."""
    _exact("projection_birkhoff", make_solver)
    return projections.birkhoff(sim_matrix)


def kl_projection_transport(
    sim_matrix: Any, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> jax.Array:
    """The plan with these marginals that is nearest to exp(sim_matrix) in the Kullback-Leibler divergence."""
    _exact("kl_projection_transport", make_solver)
    return projections.transport_kl(sim_matrix, *marginals)


def kl_projection_birkhoff(
    sim_matrix: Any, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> jax.Array:
    """The doubly stochastic matrix that is nearest to exp(sim_matrix) in the Kullback-Leibler divergence."""
    _exact("kl_projection_birkhoff", make_solver)
    return projections.birkhoff_kl(sim_matrix)


def _or_one(value: Any) -> Any:
    return 1.0 if value is None else value


def _exact(name: str, make_solver: Callable | None) -> None:
    if make_solver is not None:
        differs(f"{name}(make_solver=...)", f"{PLANS}. Leave it out.")


def _checked(result: jax.Array, point: Any, check: bool, name: str) -> jax.Array:
    """The result, which is NaN on an empty set. Raises ValueError instead where ``check`` is on and the values are
    known."""
    if check and not isinstance(result, Tracer) and bool(jnp.any(jnp.isnan(result)) & ~jnp.any(jnp.isnan(point))):
        raise ValueError(f"{name}: the constraints contradict each other, so no point is feasible. Loosen them.")
    return result
