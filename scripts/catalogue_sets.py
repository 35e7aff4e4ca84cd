"""The projections of the catalogue, at sample points."""

from __future__ import annotations

import itertools

import numpy as np
from catalogue_entry import Entry, Polyhedron, curved, largest, nearest_error, polyhedral, polyhedron

from bilevel import projections

RANDOM = np.random.default_rng(1)
POINT = np.array([0.9, -0.4, 0.5, 0.2, -1.3])
N = POINT.size
ONES, EYE = np.ones(N), np.eye(N)
PROBABILITIES = np.array([0.4, 0.1, 0.3, 0.2]), np.array([0.25, 0.15, 0.35, 0.05, 0.2])
ROWS = RANDOM.normal(size=(2, N))
FACES = RANDOM.normal(size=(5, N))
INSIDE = RANDOM.normal(size=N)


def of_box(x, lower, upper) -> Polyhedron:
    lower, upper = np.broadcast_to(lower, x.shape), np.broadcast_to(upper, x.shape)
    kept = np.concatenate([np.isfinite(upper), np.isfinite(lower)])
    faces, ends = np.concatenate([np.eye(x.size), -np.eye(x.size)]), np.concatenate([upper, -lower])
    return polyhedron(x.size, G=faces[kept], h=ends[kept])


def of_section(x, lower, upper, weights, total) -> Polyhedron:
    return of_box(x, lower, upper)._replace(A=np.broadcast_to(weights, x.shape)[None], b=np.array([total]))


def of_simplex(x, total=1.0) -> Polyhedron:
    return of_section(x, 0.0, np.inf, 1.0, total)


def of_l1_ball(x, radius) -> Polyhedron:
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=x.size)))
    return polyhedron(x.size, G=signs, h=np.full(len(signs), radius))


def of_transport(x, rows, columns) -> Polyhedron:
    m, n = x.shape
    sums = np.concatenate([np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))])
    return polyhedron(
        m * n,
        A=sums,
        b=np.concatenate([rows, columns * rows.sum() / columns.sum()]),
        G=-np.eye(m * n),
        h=np.zeros(m * n),
    )


def of_birkhoff(x) -> Polyhedron:
    return of_transport(x, np.ones(len(x)), np.ones(len(x)))


def of_monotone(x) -> Polyhedron:
    return polyhedron(x.size, G=-np.diff(np.eye(x.size), axis=0), h=np.zeros(x.size - 1))


def l1_sphere_error(p, x, radius) -> float:
    sign = np.where(x < 0, -1.0, 1.0)
    return nearest_error(of_simplex(x, radius), sign * x, sign * p)


def l2_sphere_error(p, x, radius) -> float:
    return largest(np.linalg.norm(p) - radius, p - radius * x / np.linalg.norm(x))


def sparse_simplex_error(p, x, total) -> float:
    """Against the best of all supports of two entries."""
    candidates = []
    for support in itertools.combinations(range(x.size), 2):
        part = x[list(support)]
        share = np.clip(0.5 * (part[0] - part[1] + total), 0, total)
        candidates.append(np.zeros_like(x))
        candidates[-1][list(support)] = share, total - share
    return largest(p - min(candidates, key=lambda candidate: np.linalg.norm(candidate - x)))


def simplex_kl_error(p, v, total) -> float:
    shift = np.log(p) - v
    return largest(p.sum() - total, shift - shift.mean())


def transport_kl_error(p, v, rows, columns) -> float:
    """log P - v must be a_i + b_j, and the sums must hold."""
    shift = np.log(p) - v
    rest = shift - shift.mean(axis=0) - shift.mean(axis=1, keepdims=True) + shift.mean()
    return largest(rest, p.sum(axis=1) - rows, p.sum(axis=0) - columns * rows.sum() / columns.sum())


def birkhoff_kl_error(p, v) -> float:
    return transport_kl_error(p, v, np.ones(len(v)), np.ones(len(v)))


def psd_error(p, x) -> float:
    rest = 0.5 * (x + x.T) - p
    eigenvalues = np.linalg.eigvalsh(p).min(), -np.linalg.eigvalsh(0.5 * (rest + rest.T)).max()
    return largest(p - p.T, rest @ p, np.minimum(eigenvalues, 0))


def second_order_gradient(p):
    return np.concatenate([[-1.0], p[1:] / np.linalg.norm(p[1:])])


def exponential_gradient(p):
    r = p[0] / p[1]
    return np.array([np.exp(r), np.exp(r) * (1 - r), -1.0])


def balanced(function):
    """In rows and columns alone the sums would contradict each other: the columns are scaled to the sum of the rows."""
    return lambda x, rows, columns: function(x, rows, columns * rows.sum() / columns.sum())


SETS = [
    Entry("non_negative", projections.non_negative, (POINT,), polyhedral(lambda x: of_box(x, 0.0, np.inf))),
    Entry("box", projections.box, (POINT, -0.5 * ONES, 0.4 * ONES), polyhedral(of_box)),
    Entry("hypercube", projections.hypercube, (POINT, np.array(0.6)), polyhedral(lambda x, side: of_box(x, 0.0, side))),
    Entry("simplex", projections.simplex, (POINT, np.array(1.1)), polyhedral(of_simplex)),
    Entry(
        "capped_simplex",
        projections.capped_simplex,
        (POINT, np.array(0.6), np.array(1.1)),
        polyhedral(lambda x, upper, total: of_section(x, 0.0, upper, 1.0, total)),
    ),
    Entry(
        "sparse_simplex",
        lambda x, total: projections.sparse_simplex(x, 2, total),
        (POINT, np.array(1.0)),
        sparse_simplex_error,
    ),
    Entry("l1_ball", projections.l1_ball, (POINT, np.array(1.1)), polyhedral(of_l1_ball)),
    Entry("l1_sphere", projections.l1_sphere, (POINT, np.array(1.1)), l1_sphere_error),
    Entry(
        "l2_ball", projections.l2_ball, (POINT, np.array(1.1)), curved(lambda p, r: p, lambda p, r: (p @ p - r * r) / 2)
    ),
    Entry("l2_sphere", projections.l2_sphere, (POINT, np.array(3.1)), l2_sphere_error),
    Entry("linf_ball", projections.linf_ball, (POINT, np.array(0.45)), polyhedral(lambda x, r: of_box(x, -r, r))),
    Entry(
        "hyperplane",
        projections.hyperplane,
        (POINT, ROWS[0], np.array(0.3)),
        polyhedral(lambda x, normal, offset: polyhedron(N, A=normal, b=offset)),
    ),
    Entry(
        "halfspace",
        projections.halfspace,
        (POINT, ROWS[0], np.array(-3.0)),
        polyhedral(lambda x, normal, offset: polyhedron(N, G=normal, h=offset)),
    ),
    Entry(
        "affine_set",
        projections.affine_set,
        (POINT, ROWS, np.array([0.3, -0.2])),
        polyhedral(lambda x, A, b: polyhedron(N, A=A, b=b)),
    ),
    Entry(
        "polyhedron",
        projections.polyhedron,
        (POINT, ROWS[:1], ROWS[:1] @ INSIDE, FACES, FACES @ INSIDE + np.array([0.0, 0.1, 0.2, 0.3, 0.4])),
        polyhedral(lambda x, *rows: polyhedron(N, *rows)),
        slow=True,
    ),
    Entry(
        "box_section",
        projections.box_section,
        (POINT, -0.5 * ONES, np.array([0.3, 0.6, 0.8, 0.9, 0.2]), np.array([1.0, -0.5, 2.0, 0.7, 0.3]), np.array(0.4)),
        polyhedral(of_section),
    ),
    Entry(
        "transport",
        balanced(projections.transport),
        (0.3 * RANDOM.normal(size=(4, 5)), *PROBABILITIES),
        polyhedral(of_transport),
        slow=True,
    ),
    Entry("birkhoff", projections.birkhoff, (RANDOM.normal(size=(4, 4)),), polyhedral(of_birkhoff), slow=True),
    Entry("simplex_kl", projections.simplex_kl, (POINT, np.array(1.3)), simplex_kl_error),
    Entry(
        "transport_kl",
        balanced(projections.transport_kl),
        (RANDOM.normal(size=(4, 5)), *PROBABILITIES),
        transport_kl_error,
        slow=True,
    ),
    Entry("birkhoff_kl", projections.birkhoff_kl, (RANDOM.normal(size=(4, 4)),), birkhoff_kl_error, slow=True),
    Entry("isotonic", projections.isotonic, (np.array([0.1, 0.9, -0.4, 0.5, 2.0]),), polyhedral(of_monotone)),
    Entry(
        "second_order_cone",
        projections.second_order_cone,
        (POINT,),
        curved(second_order_gradient, lambda p: np.linalg.norm(p[1:]) - p[0]),
        smooth=True,
    ),
    Entry("psd_cone", projections.psd_cone, (RANDOM.normal(size=(4, 4)),), psd_error),
    Entry(
        "exponential_cone",
        projections.exponential_cone,
        (np.array([0.5, 0.3, -0.2]),),
        curved(exponential_gradient, lambda p: p[1] * np.exp(p[0] / p[1]) - p[2]),
    ),
]
