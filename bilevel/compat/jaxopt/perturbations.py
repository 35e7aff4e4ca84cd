"""Perturbed functions and maximisers, by `bl.perturbed_argmax` and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bilevel.layers.perturbations import Gumbel, Normal, perturbed, perturbed_argmax, perturbed_max

__all__ = ["Gumbel", "Normal", "make_perturbed_argmax", "make_perturbed_fun", "make_perturbed_max"]


def make_perturbed_argmax(
    argmax_fun: Callable,
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = Gumbel(),
    control_variate: bool = False,
) -> Callable:
    """(inputs, rng) -> the mean of argmax_fun(inputs + sigma Z) over ``num_samples`` draws, with its derivative."""
    return perturbed_argmax(argmax_fun, samples=num_samples, scale=sigma, noise=noise, control_variate=control_variate)


def make_perturbed_max(
    argmax_fun: Callable, num_samples: int = 1000, sigma: float = 0.1, noise: Any = Gumbel()
) -> Callable:
    """(inputs, rng) -> the mean of max <y, inputs + sigma Z>; its gradient is the perturbed argmax."""
    return perturbed_max(argmax_fun, samples=num_samples, scale=sigma, noise=noise)


def make_perturbed_fun(
    fun: Callable, num_samples: int = 1000, sigma: float = 0.1, noise: Any = Gumbel(), control_variate: bool = False
) -> Callable:
    """(inputs, rng) -> the mean of fun(inputs + sigma Z), with its derivative."""
    return perturbed(fun, samples=num_samples, scale=sigma, noise=noise, control_variate=control_variate)
