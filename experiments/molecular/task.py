"""Molecular dynamics: how the equilibrium of soft spheres moves with the diameter of half of them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.batches import full_batch
from bilevel.task import Headline, Task
from bilevel.tasks.grids import lowest

from .soft_spheres import REFERENCE, Paths, SoftSpheres, differences, paths

STABLE = 1e-3  # relative
AT_REST = 1e-10  # the largest force of an equilibrium
REACH = 1e-6  # of the central differences
GRID = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # the diameters of the baseline


class Sensitivities(NamedTuple):
    """What the study of all seeds finds: arrays with an entry for each seed, paths (times, seeds)."""

    paths: Paths
    reference: np.ndarray  # L1 norm of d positions / d diameter at the polished equilibrium
    against_differences: np.ndarray  # relative distance from central differences
    same_contacts: np.ndarray  # whether the equilibria of these have one network of contacts
    positions: np.ndarray  # (seeds, n, 2), polished
    sensitivity: np.ndarray  # (seeds, n, 2)
    box: float

    def deviations(self, norms: jax.Array) -> np.ndarray:
        """Relative distances of norms along the paths from the reference; infinite where they are not finite."""
        off = np.abs(np.asarray(norms) / self.reference - 1)
        return np.where(np.isfinite(off), off, np.inf)

    def figures(self) -> dict[str, float]:
        """Numbers of the summary. A derivative is stable in a seed if it stays within 1e-3 of the reference throughout
        the last quarter of the steps; the unrolled one failed where it does not."""
        steps = self.paths.steps
        last = steps > 0.75 * steps[-1]
        implicit, unrolled = (self.deviations(norms) for norms in (self.paths.implicit, self.paths.unrolled))
        early = int(np.argmin(np.abs(steps - 0.25 * steps[-1])))
        return {
            "seeds": len(self.reference),
            "seeds_at_rest": int(np.sum(np.asarray(self.paths.force[-1]) <= AT_REST)),
            "seeds_implicit_stable": int(np.sum(np.all(implicit[last] <= STABLE, axis=0))),
            "seeds_unrolled_failed": int(np.sum(~np.all(unrolled[last] <= STABLE, axis=0))),
            "seeds_unrolled_off_by_a_tenth": int(np.sum(unrolled[-1] > 0.1)),
            "seeds_implicit_off_at_a_quarter": int(np.sum(implicit[early] > STABLE)),
            "seeds_unrolled_off_at_a_quarter": int(np.sum(unrolled[early] > STABLE)),
            "seeds_with_one_network": int(np.sum(self.same_contacts)),
            "max_error_against_differences": float(np.max(self.against_differences[self.same_contacts], initial=0.0)),
        }


def molecular_sensitivities(
    particles: int = 128, fraction: float = 0.98, seeds: int = 40, steps: int = 3000, times: int = 12
) -> Sensitivities:
    """The study: FIRE from ``seeds`` random starts, the derivative of the positions through its steps and the implicit
    one at ``times`` of them, both against the polished equilibrium, and that against central differences."""
    spheres = SoftSpheres(particles, fraction)
    found = paths(spheres, seeds, steps, times)

    def at_rest(positions: jax.Array) -> tuple[jax.Array, ...]:
        polished = spheres.polished(positions, REFERENCE)
        return polished, *differences(spheres, polished, REFERENCE, REACH)

    polished, implicit, central, same = jax.jit(lambda starts: jax.lax.map(at_rest, starts))(found.positions)
    off = jnp.linalg.norm(implicit - central, axis=(1, 2)) / jnp.linalg.norm(implicit, axis=(1, 2))
    reference = jnp.sum(jnp.abs(implicit), axis=(1, 2))
    arrays = (np.asarray(array) for array in (reference, off, same, polished, implicit))
    return Sensitivities(found, *arrays, box=float(spheres.box(REFERENCE)))


def molecular(
    *,
    particles: int = 64,
    fraction: float = 0.98,
    seeds: int = 10,
    steps: int = 3000,
    start: float = REFERENCE,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """The diameter of half of the spheres at which their contacts bear most evenly; and a study of sensitivities.

        inner:  minimise over the positions the energy of ``particles`` soft spheres in a periodic square, by FIRE
        outer:  n sum gap^4 / (sum gap^2)^2 over the contacts, at a fixed packing fraction

    Half of the spheres have diameter 1, half the diameter that is learned, from ``start`` within [0.5, 1]. Summary, of
    ``seeds`` random starts with the diameter 0.6: seeds_implicit_stable (the implicit derivative of the positions stays
    within 1e-3 over the last quarter of ``steps``), seeds_unrolled_failed (the derivative through the steps does not),
    max_error_against_differences (relative, where the contacts are the same). Baseline: the most even of 6 diameters,
    from another random start.

    Source: Blondel et al., 2021, section 4.4; Bitzek et al., 2006.
    """
    spheres = SoftSpheres(particles, fraction)

    @cache
    def found() -> Sensitivities:
        return molecular_sensitivities(particles, fraction, seeds, steps)

    inner = spheres.problem(steps)
    outer_loss = lambda params, hparams, batch: unevenness(spheres.gaps(params, hparams))

    def by_grid() -> dict[str, float]:
        losses = jax.jit(lambda grid: jax.lax.map(lambda one: outer_loss(inner.solve(one, ()).params, one, ()), grid))
        found = losses(jnp.asarray(GRID))
        best = lowest(found, "the grid of diameters")
        return {"baseline/outer_loss": float(found[best]), "baseline/diameter": GRID[best]}

    return Task(
        inner=inner,
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.asarray(start, jnp.result_type(float)),
        batches=full_batch((), ()),
        evaluate=lambda params, hparams: {"contacts": jnp.sum(spheres.contacts(params, hparams)) / particles},
        feasible=lambda hparams: jnp.clip(hparams, 0.5, 1.0),
        baselines=lambda: {**found().figures(), **by_grid()},
        figures={"sensitivity": lambda result: arrows(found())},
        precision=precision,
        name="molecular",
        headline=Headline(
            "outer/loss", "unevenness of the contacts", {"baseline/outer_loss": f"by a grid of {len(GRID)} diameters"}
        ),
        natural=lambda hparams: {"diameter": hparams},
    )


def unevenness(gaps: jax.Array) -> jax.Array:
    """n sum gap^4 / (sum gap^2)^2 over the contacts of n particles."""
    square = jnp.maximum(gaps, 0.0) ** 2
    return len(gaps) * jnp.sum(square**2) / jnp.sum(square) ** 2


def arrows(found: Sensitivities, seed: int = 0) -> Any:
    """The spheres of one equilibrium, and how each moves when the small ones grow."""
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    positions, moves = found.positions[seed] % found.box, found.sensitivity[seed]
    half = len(positions) // 2
    radii = np.where(np.arange(len(positions)) < half, 0.5, 0.5 * REFERENCE)
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.subplots()
    for kind, color in ((slice(None, half), "0.85"), (slice(half, None), "#f6c58f")):
        circles = [Circle((x, y), r) for (x, y), r in zip(positions[kind], radii[kind], strict=True)]
        axes.add_collection(PatchCollection(circles, facecolor=color, edgecolor="0.6", linewidth=0.5))
    axes.quiver(*positions.T, *moves.T, angles="xy", color="tab:blue", width=0.004)
    axes.set(xlim=(0, found.box), ylim=(0, found.box), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(True)  # the box
    axes.set_title("d position / d diameter of the small spheres", fontsize=10)
    return figure
