"""Draws the pictures of docs/gallery.md into docs/figures/gallery: each set and proximal operator of the catalogue.

python scripts/gallery.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from bilevel import projections, prox

matplotlib.use("Agg")
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures" / "gallery"
POINT, RESULT, ARROW, REGION = "#4477aa", "#cc3311", "#bbbbbb", "#e8eef5"
RANDOM = np.random.default_rng(0)
PLANE = RANDOM.uniform(-2, 2, size=(22, 2))
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])  # of the simplex, drawn as a triangle
NORMAL = np.array([1.0, 0.5])
FACES = np.array([[1.0, 0.3], [-0.5, 1.0], [-1.0, -0.4], [0.2, -1.0]])
ENDS = np.array([1.0, 1.0, 1.2, 0.9])


def of_plane(function: Callable) -> np.ndarray:
    return np.asarray(jax.vmap(function)(jnp.asarray(PLANE)))


def arrows(axes: Axes, before: np.ndarray, after: np.ndarray, title: str) -> None:
    """Points, their images, and an arrow from each to its own."""
    moved = np.linalg.norm(after - before, axis=1) > 0.08
    for start, end in zip(before[moved], after[moved], strict=True):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": ARROW, "shrinkA": 0, "shrinkB": 0})
    axes.scatter(*before.T, s=10, color=POINT, zorder=3)
    axes.scatter(*after.T, s=10, color=RESULT, zorder=4)
    axes.set_title(title, fontsize=10)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def region(axes: Axes, inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Shades where inside(x, y) >= 0."""
    grid = np.meshgrid(np.linspace(-2.2, 2.2, 300), np.linspace(-2.2, 2.2, 300))
    axes.contourf(*grid, inside(*grid), levels=[0, np.inf], colors=[REGION], zorder=0)
    axes.contour(*grid, inside(*grid), levels=[0], colors=["#888888"], linewidths=0.8, zorder=1)


def sets_of_the_plane() -> None:
    panels = [
        ("non_negative(x)", projections.non_negative, lambda x, y: np.minimum(x, y)),
        (
            "box(x, lower, upper)",
            lambda p: projections.box(p, jnp.array([-1.2, -0.5]), 0.9),
            box_inside(-1.2, 0.9, -0.5, 0.9),
        ),
        ("hypercube(x, side)", lambda p: projections.hypercube(p, 1.3), box_inside(0, 1.3, 0, 1.3)),
        ("linf_ball(x, radius)", projections.linf_ball, lambda x, y: 1 - np.maximum(np.abs(x), np.abs(y))),
        ("l1_ball(x, radius)", lambda p: projections.l1_ball(p, 1.3), lambda x, y: 1.3 - np.abs(x) - np.abs(y)),
        (
            "l1_sphere(x, radius)",
            lambda p: projections.l1_sphere(p, 1.3),
            lambda x, y: 1.3 - np.abs(x) - np.abs(y),
        ),
        ("l2_ball(x, radius)", projections.l2_ball, lambda x, y: 1 - np.hypot(x, y)),
        ("l2_sphere(x, radius)", projections.l2_sphere, lambda x, y: 1 - np.hypot(x, y)),
        ("hyperplane(x, normal, offset)", lambda p: projections.hyperplane(p, NORMAL, 0.3), line_inside),
        ("affine_set(x, A, b)", lambda p: projections.affine_set(p, NORMAL[None], jnp.array([0.3])), line_inside),
        (
            "halfspace(x, normal, offset)",
            lambda p: projections.halfspace(p, NORMAL, 0.3),
            lambda x, y: 0.3 - x - 0.5 * y,
        ),
        (
            "polyhedron(x, A, b, G, h)",
            inside_polyhedron,
            lambda x, y: np.min([h - a * x - b * y for (a, b), h in zip(FACES, ENDS, strict=True)], axis=0),
        ),
    ]
    figure, grid = plt.subplots(3, 4, figsize=(11, 8.4))
    for axes, (title, function, inside) in zip(grid.ravel(), panels, strict=True):
        region(axes, inside) if "sphere" not in title and inside is not line_inside else curve(axes, inside)
        arrows(axes, PLANE, of_plane(function), title)
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    save(figure, "sets")


def box_inside(left, right, bottom, top):
    return lambda x, y: np.min([x - left, right - x, y - bottom, top - y], axis=0)


def line_inside(x, y):
    return x + 0.5 * y - 0.3


def curve(axes: Axes, level: Callable) -> None:
    grid = np.meshgrid(np.linspace(-2.2, 2.2, 400), np.linspace(-2.2, 2.2, 400))
    values = level(*grid)
    axes.contour(
        *grid, values, levels=[-0.01 if values.max() <= 0 else 0], colors=["#888888"], linewidths=0.8, zorder=1
    )


def inside_polyhedron(point):
    return projections.polyhedron(point, jnp.zeros((0, 2)), jnp.zeros(0), jnp.asarray(FACES), jnp.asarray(ENDS))


def simplices() -> None:
    """Points of the plane x + y + z = 1 and their projections, seen from above the triangle."""
    flat = RANDOM.normal(size=(26, 3))
    points = flat - flat.mean(axis=1, keepdims=True) + 1 / 3
    panels = [
        ("simplex(x)", projections.simplex),
        ("capped_simplex(x, 0.6)", lambda p: projections.capped_simplex(p, 0.6)),
        ("sparse_simplex(x, 2)", lambda p: projections.sparse_simplex(p, 2)),
        (
            "box_section(x, ...)",
            lambda p: projections.box_section(p, jnp.array([0.1, 0.0, 0.2]), 0.7, jnp.array([1.0, 1.0, 1.0]), 1.0),
        ),
        ("simplex_kl(3 x) = softmax", lambda p: projections.simplex_kl(3 * p)),
    ]
    figure, grid = plt.subplots(1, 5, figsize=(14, 3.1))
    for axes, (title, function) in zip(grid, panels, strict=True):
        axes.fill(*CORNERS.T, color=REGION, ec="#888888", lw=0.8, zorder=0)
        arrows(axes, points @ CORNERS, np.asarray(jax.vmap(function)(jnp.asarray(points))) @ CORNERS, title)
    save(figure, "simplices")


def matrices() -> None:
    point = RANDOM.normal(size=(6, 6))
    rows, columns = (jnp.asarray(RANDOM.dirichlet(5 * np.ones(6))) for _ in range(2))
    panels = [
        ("the point", point),
        ("transport(x, rows, columns)", projections.transport(0.3 * point, rows, columns)),
        ("transport_kl(x, rows, columns)", projections.transport_kl(point, rows, columns)),
        ("birkhoff(x)", projections.birkhoff(point)),
        ("birkhoff_kl(x)", projections.birkhoff_kl(point)),
    ]
    figure, grid = plt.subplots(1, 5, figsize=(14, 3.1))
    for axes, (title, values) in zip(grid, panels, strict=True):
        axes.imshow(
            values, cmap="Greys" if title != "the point" else "RdBu_r", vmin=None if title == "the point" else 0
        )
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    save(figure, "matrices")


def cones() -> None:
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.6))
    region(grid[0], lambda z, t: t - np.abs(z))
    arrows(
        grid[0], PLANE, of_plane(lambda p: projections.second_order_cone(p[::-1])[::-1]), "second_order_cone([t, z])"
    )
    grid[0].set(xlabel="z", ylabel="t", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    region(grid[1], lambda b, a: a - np.abs(b))
    arrows(grid[1], PLANE, of_plane(equal_diagonal), "psd_cone([[a, b], [b, a]])")
    grid[1].set(xlabel="b", ylabel="a", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    region(grid[2], lambda x, z: z - np.exp(x))
    arrows(grid[2], PLANE, of_plane(slice_of_exponential), "exponential_cone([x, 1, z])")
    grid[2].set(xlabel="x (y = 1 before, not after)", ylabel="z", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    save(figure, "cones")


def equal_diagonal(point):
    b, a = point
    projected = projections.psd_cone(jnp.array([[a, b], [b, a]]))
    return jnp.array([projected[0, 1], projected[0, 0]])


def slice_of_exponential(point):
    projected = projections.exponential_cone(jnp.array([point[0], 1.0, point[1]]))
    return projected[jnp.array([0, 2])]


def sequences() -> None:
    steps = np.repeat([0.0, 1.5, 0.7, 2.2, -0.3], 16) + 0.3 * RANDOM.normal(size=80)
    rising = np.linspace(0, 2, 80) + 0.4 * RANDOM.normal(size=80)
    figure, grid = plt.subplots(1, 2, figsize=(11, 3.2))
    for axes, title, before, after in (
        (grid[0], "projections.isotonic(x)", rising, projections.isotonic(rising)),
        (grid[1], "prox.total_variation(x, 1.0, weight=1.0)", steps, prox.total_variation(steps, 1.0, 1.0)),
    ):
        axes.scatter(np.arange(80), before, s=9, color=POINT)
        axes.step(np.arange(80), after, color=RESULT, where="mid")
        axes.set_title(title, fontsize=10)
    save(figure, "sequences")


def prox_curves() -> None:
    x = jnp.linspace(-3, 3, 400)
    panels = [
        ("zero", prox.zero),
        ("l1", prox.l1),
        ("non_negative_l1", prox.non_negative_l1),
        ("elastic_net", prox.elastic_net),
        ("ridge", prox.ridge),
        ("non_negative_ridge", prox.non_negative_ridge),
        ("huber", prox.huber),
        ("log_barrier", prox.log_barrier),
        ("from_projection(box)", lambda x, step: prox.from_projection(projections.box)(x, step, -1.0, 1.5)),
        ("conjugate(huber)", prox.conjugate(prox.huber)),
    ]
    figure, grid = plt.subplots(2, 5, figsize=(14, 5.6), sharex=True, sharey=True)
    for axes, (title, function) in zip(grid.ravel(), panels, strict=True):
        axes.plot(x, x, color=ARROW, lw=0.8)
        for step, color in ((0.3, "#88ccee"), (1.0, POINT), (2.0, RESULT)):
            axes.plot(x, function(x, step), color=color, lw=1.5, label=f"step {step}")
        axes.set_title(title, fontsize=10)
        axes.axhline(0, color="#dddddd", lw=0.6, zorder=0)
    grid[0, 0].legend(fontsize=8)
    save(figure, "prox_curves")


def prox_planes() -> None:
    panels = [
        ("group_lasso(x, 1.0)", prox.group_lasso),
        ("l_inf(x, 1.0)", prox.l_inf),
        ("sorted_l1(x, 1.0, [1, 0.3])", lambda p: prox.sorted_l1(p, 1.0, jnp.array([1.0, 0.3]))),
    ]
    figure, grid = plt.subplots(1, 4, figsize=(13, 3.4))
    for axes, (title, function) in zip(grid, panels, strict=False):
        axes.axhline(0, color="#dddddd", lw=0.6, zorder=0)
        axes.axvline(0, color="#dddddd", lw=0.6, zorder=0)
        arrows(axes, PLANE, of_plane(function), title)
    matrix = RANDOM.normal(size=(20, 30)) + 3 * np.outer(RANDOM.normal(size=20), RANDOM.normal(size=30))
    for values, color, label in ((matrix, POINT, "x"), (prox.nuclear_norm(matrix, 1.0, 6.0), RESULT, "prox")):
        grid[3].plot(np.linalg.svd(np.asarray(values), compute_uv=False)[:12], ".-", color=color, label=label)
    grid[3].set(yscale="symlog", ylim=(-0.2, 150), xlabel="singular values")
    grid[3].set_title("nuclear_norm(x, 1.0, 6.0)", fontsize=10)
    grid[3].legend(fontsize=8)
    save(figure, "prox_planes")


def save(figure, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    for draw in (sets_of_the_plane, simplices, matrices, cones, sequences, prox_curves, prox_planes):
        draw()
