"""Proximal operators and projections in numpy, for `scripts/adversary.py`.

Each is written apart from the library, in functions that also take complex numbers (comparisons look at the real
parts), so that a step of 1e-30 along the imaginary axis gives its derivatives to the last digit (Squire and Trapp,
1998).
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import isotonic_regression, nnls


def soft(v, threshold):
    real = np.real(v)
    return np.where(np.abs(real) > np.real(threshold), v - threshold * np.sign(real), 0)


def clip(v, lower, upper):
    return np.where(np.real(v) < np.real(lower), lower, np.where(np.real(v) > np.real(upper), upper, v))


def length(v):
    return np.sqrt(np.sum(v * v))


def simplex(v, total):
    ordered = v[np.argsort(-np.real(v))]
    shifts = (np.cumsum(ordered) - total) / np.arange(1, v.size + 1)
    positive = np.flatnonzero(np.real(ordered) > np.real(shifts))
    shift = shifts[positive[-1] if positive.size else 0]  # none where the total is lost in the rounding of v
    return np.where(np.real(v) > np.real(shift), v - shift, 0)


def l1_ball(v, radius):
    if np.sum(np.abs(np.real(v))) <= np.real(radius):
        return v
    signs = np.where(np.real(v) < 0, -1.0, 1.0)
    return signs * simplex(signs * v, radius)


def l2_ball(v, radius):
    return v if np.real(length(v)) <= np.real(radius) else v * (radius / length(v))


def capped_simplex(v, total):
    """0 <= w <= 1, the sum is min(total, half of the entries): the shift by bisection, then from its faces."""
    real, goal = np.real(v), np.real(total)
    low, high = real.min() - 1, real.max()
    for _ in range(200):
        shift = (low + high) / 2
        low, high = (shift, high) if np.clip(real - shift, 0, 1).sum() > goal else (low, shift)
    free, full = (real - high > 0) & (real - high < 1), real - high >= 1
    shift = (np.sum(v[free]) + full.sum() - total) / max(free.sum(), 1)
    return np.where(free, v - shift, np.where(full, 1, 0))


def isotonic(v):
    blocks = isotonic_regression(np.real(v)).blocks
    return np.concatenate([np.full(b - a, np.sum(v[a:b]) / (b - a)) for a, b in itertools.pairwise(blocks)])


def sorted_l1(v, weights):
    """The isotonic regression of the sorted sizes less the weights (Bogdan et al., 2015)."""
    signs = np.where(np.real(v) < 0, -1.0, 1.0)
    order = np.argsort(-np.abs(np.real(v)), kind="stable")
    fitted = -isotonic(-((signs * v)[order] - weights))
    result = np.zeros_like(fitted)
    result[order] = np.where(np.real(fitted) > 0, fitted, 0)
    return signs * result


def total_variation(v, threshold):
    """From the dual, a least-squares problem in a box: projected Newton steps; then from the jumps that are left."""
    differences = np.diff(np.eye(v.size), axis=0)
    real, bound = np.real(v), float(np.real(threshold))
    gram, dual = differences @ differences.T, np.zeros(v.size - 1)
    for _ in range(400):
        slope = gram @ dual - differences @ real
        held = ((dual >= bound) & (slope < 0)) | ((dual <= -bound) & (slope > 0))
        if not np.any(np.abs(slope[~held]) > 1e-13 * (1 + np.abs(real).max())):
            break
        step = np.zeros_like(dual)
        step[~held] = -np.linalg.solve(gram[np.ix_(~held, ~held)], slope[~held])
        reach = np.where(step > 0, (bound - dual) / np.where(step > 0, step, 1), np.inf)
        reach = np.where(step < 0, (-bound - dual) / np.where(step < 0, step, 1), reach)
        first = min(1.0, reach.min())
        dual = dual + first * step
        dual = np.where(reach <= first, np.sign(step) * bound, dual)
    jumps = np.flatnonzero(np.abs(dual) >= bound * (1 - 1e-12))
    ends = np.concatenate([[0], jumps + 1, [v.size]])
    pull = np.concatenate([[0], np.sign(dual[jumps]), [0]])
    parts = [
        np.full(b - a, (np.sum(v[a:b]) + threshold * (pull[i + 1] - pull[i])) / (b - a))
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]
    return np.concatenate(parts)


def group_lasso(v, threshold, width):
    rows = v.reshape(-1, width)
    sizes = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    kept = np.real(sizes) > np.real(threshold)
    return np.where(kept, rows * (1 - threshold / np.where(kept, sizes, 1)), 0).reshape(-1)


def second_order_cone(v):
    t, z = v[0], v[1:]
    size = length(z)
    if np.real(size) <= np.real(t):
        return v
    if np.real(size) <= -np.real(t):
        return 0 * v
    half = (t + size) / 2
    return np.concatenate([[half], z * (half / size)])


def polyhedron(v, G, h):
    """The nearest point with G w <= h: the active rows by non-negative least squares, then their equations."""
    G = G.astype(float)  # products of single precision would have its rounding
    real, bound = np.real(v), np.real(h)
    if not np.all(np.isfinite(real)):  # the descent of the oracle overflowed
        return np.full_like(v, np.nan)
    if np.all(G @ real <= bound):
        return v
    stacked = np.concatenate([-G.T, (G @ real - bound)[None]])
    scale = np.abs(stacked[-1]).max()
    stacked[-1] /= scale
    solution = nnls(stacked, np.append(np.zeros(v.size), 1.0), maxiter=100 * len(h))[0]
    rows = solution > 1e-12 * solution.max()
    face = G[rows]
    return v - face.T @ np.linalg.solve(face @ face.T, face @ v - h[rows])


def affine(v, A, b):
    A = A.astype(float)
    return v - A.T @ np.linalg.solve(A @ A.T, A @ v - b)
