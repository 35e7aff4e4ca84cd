"""The proximal operators of the catalogue, at sample points, and their projections on cones.

The certificate is the distance of u = (x - p) / step from the subdifferential of the penalty at p.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from catalogue_entry import Entry, largest

from bilevel import cones, projections, prox

RANDOM = np.random.default_rng(2)
POINT = np.array([0.9, -0.4, 1.5, 0.2, -1.3, 0.1])
STEP = np.array(0.7)
WEIGHT = np.array(0.8)
LINE = np.array([0.0, 0.4, 2.0, 1.7, 2.2, -0.5, -0.1, 0.3])


def subgradient(distance):
    """The certificate from the distance (u, p, *weights) -> the distance of u from the subdifferential at p."""
    return lambda p, x, step, *weights: step * distance((x - p) / step, p, *weights)


def l1_distance(u, p, w):
    return largest(np.where(p != 0, u - w * np.sign(p), np.maximum(np.abs(u) - w, 0)))


def non_negative_distance(u, p, slope):
    return largest(np.minimum(p, 0), np.where(p > 0, u - slope, np.maximum(u - slope, 0)))


def group_distance(u, p, w):
    """Groups are rows; w has one weight for each."""
    size = np.linalg.norm(p, axis=-1, keepdims=True)
    kept = u - w[:, None] * p / np.where(size > 0, size, 1)
    return largest(
        np.where(size > 0, kept, 0), np.where(size[:, 0] > 0, 0, np.maximum(np.linalg.norm(u, axis=-1) - w, 0))
    )


def l_inf_distance(u, p, w):
    highest = np.abs(p) >= np.max(np.abs(p)) - 1e-12
    return largest(np.abs(u).sum() - w, u[~highest], np.minimum(u * np.sign(p), 0))


def nuclear_distance(u, p, w):
    left, values, right = np.linalg.svd(p, full_matrices=False)
    left, right = left[:, values > 1e-12], right[values > 1e-12]
    excess = max(np.linalg.norm(u, 2) - w, 0)
    return largest(left.T @ u - w * right, u @ right.T - w * left, excess)


def total_variation_distance(u, p, w):
    """u = D'c with |c_i| <= w_i, and c_i = w_i times the sign of the jump i where there is one."""
    c, jump = -np.cumsum(u), np.diff(p)
    inner = np.where(np.abs(jump) > 1e-12, c[:-1] - w * np.sign(jump), np.maximum(np.abs(c[:-1]) - w, 0))
    return largest(c[-1], inner)


def sorted_l1_distance(u, p, w):
    """On each set of entries of one size |p|, the sums of the largest |u| are at most those of the weights, and equal
    at its end, where p is not zero."""
    order = np.lexsort([-np.abs(u), -np.abs(p).round(12)])
    size, sums = np.abs(p)[order].round(12), np.cumsum(np.abs(u)[order] - np.sort(w)[::-1])
    ends = np.append(size[1:] != size[:-1], True) & (size > 0)
    return largest(np.maximum(sums, 0), sums[ends], np.minimum(u * np.sign(p), 0))


def conjugate_distance(u, p, w):
    """The conjugate of w ||.||_1 is the indicator of {|p| <= w}."""
    return largest(np.maximum(np.abs(p) - w, 0), np.where(np.abs(p) < w - 1e-9, u, np.minimum(u * np.sign(p), 0)))


def moreau_error(cone: cones.Cone):
    """p in K, p - x in K*, <p, p - x> = 0, by the projections themselves, at x and at the results."""

    def certificate(p, x):
        dual = cone.project_dual(jnp.asarray(-x))
        return largest(p - dual - x, p - cone.project(p), dual - cone.project_dual(dual), p @ dual)

    return certificate


CONES = cones.Product(cones.Zero(1), cones.NonNegative(2), cones.SecondOrder(3), cones.PSD(2), cones.Exponential())

PROXES = [
    Entry("prox.zero", prox.zero, (POINT, STEP), subgradient(lambda u, p: largest(u)), smooth=True),
    Entry("prox.l1", prox.l1, (POINT, STEP, WEIGHT), subgradient(l1_distance)),
    Entry("prox.non_negative_l1", prox.non_negative_l1, (POINT, STEP, WEIGHT), subgradient(non_negative_distance)),
    Entry(
        "prox.elastic_net",
        prox.elastic_net,
        (POINT, STEP, WEIGHT, np.array(1.3)),
        subgradient(lambda u, p, a, b: l1_distance(u - b * p, p, a)),
    ),
    Entry(
        "prox.group_lasso",
        prox.group_lasso,
        (POINT.reshape(3, 2), STEP, np.array([0.6, 2.5, 0.9])),
        subgradient(group_distance),
    ),
    Entry(
        "prox.ridge", prox.ridge, (POINT, STEP, WEIGHT), subgradient(lambda u, p, w: largest(u - w * p)), smooth=True
    ),
    Entry(
        "prox.non_negative_ridge",
        prox.non_negative_ridge,
        (POINT, STEP, WEIGHT),
        subgradient(lambda u, p, w: non_negative_distance(u - w * p, p, 0.0)),
    ),
    Entry("prox.l_inf", prox.l_inf, (POINT, STEP, np.array(1.4)), subgradient(l_inf_distance)),
    Entry(
        "prox.nuclear_norm",
        prox.nuclear_norm,
        (RANDOM.normal(size=(3, 4)), STEP, np.array(2.0)),
        subgradient(nuclear_distance),
    ),
    Entry(
        "prox.total_variation",
        prox.total_variation,
        (LINE, STEP, RANDOM.uniform(0.5, 1, size=LINE.size - 1)),
        subgradient(total_variation_distance),
    ),
    Entry(
        "prox.sorted_l1",
        prox.sorted_l1,
        (POINT, STEP, np.array([1.2, 1.0, 0.9, 0.4, 0.3, 0.2])),
        subgradient(sorted_l1_distance),
    ),
    Entry(
        "prox.huber",
        prox.huber,
        (POINT, STEP, WEIGHT, np.array(0.5)),
        subgradient(lambda u, p, w, delta: largest(u - w * np.clip(p, -delta, delta))),
        smooth=True,
    ),
    Entry(
        "prox.log_barrier",
        prox.log_barrier,
        (POINT, STEP, WEIGHT),
        subgradient(lambda u, p, w: largest(u + w / p)),
        smooth=True,
    ),
    Entry(
        "prox.from_projection(box)",
        prox.from_projection(projections.box),
        (POINT, STEP, np.array(-0.3), np.array(0.6)),
        lambda p, x, step, lower, upper: largest(p - np.minimum(np.maximum(x, lower), upper)),
    ),
    Entry("prox.conjugate(l1)", prox.conjugate(prox.l1), (POINT, STEP, WEIGHT), subgradient(conjugate_distance)),
    Entry("cones.Product", CONES.project, (RANDOM.normal(size=CONES.dim),), moreau_error(CONES)),
    Entry("cones.Product, dual", CONES.project_dual, (RANDOM.normal(size=CONES.dim),), moreau_error(CONES.dual)),
]
