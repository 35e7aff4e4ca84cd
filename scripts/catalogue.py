"""Prints the catalogue of projections and proximal operators with the measured errors of each entry.

    python scripts/catalogue.py            # all entries
    python scripts/catalogue.py simplex    # those whose name contains a word

Columns: the certified error of the value; the error of the Jacobian in all arguments against central differences; the
difference between forward and reverse mode; the rank of the Jacobian in the point over its number of columns.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from catalogue_entry import Entry
from catalogue_proxes import PROXES
from catalogue_sets import SETS
from jax.flatten_util import ravel_pytree

ENTRIES = [*SETS, *PROXES]
DIFFERENCE = 1e-6


class Measurement(NamedTuple):
    """What was measured of an entry, in float64."""

    value: float  # certified error of the value
    jacobian: float  # largest error of a Jacobian against central differences, relative to its size
    modes: float  # largest difference between forward and reverse mode
    rank: int  # of the Jacobian in the point
    columns: int


class Derivatives(NamedTuple):
    """The value, and the Jacobian in all arguments: a row for each output, a column for each entry of an argument."""

    value: jax.Array
    forward: jax.Array
    reverse: jax.Array
    differences: jax.Array  # central


def derivatives(entry: Entry) -> Derivatives:
    """The value and the Jacobian in both modes and by central differences, as one compiled program."""
    flat, unravel = ravel_pytree(entry.args)

    def function(flat):
        return entry.function(*unravel(flat))

    @jax.jit
    def compute(flat):
        steps = DIFFERENCE * jnp.eye(flat.size)
        values = jax.vmap(function)(jnp.concatenate([flat[None], flat + steps, flat - steps]))
        there, back = (half.reshape(flat.size, -1) for half in jnp.split(values[1:], 2))
        modes = (jacobian(function)(flat).reshape(-1, flat.size) for jacobian in (jax.jacfwd, jax.jacrev))
        return values[0], *modes, (there - back).T / (2 * DIFFERENCE)

    return Derivatives(*compute(flat))


def measure(entry: Entry) -> Measurement:
    """The certified error of the value and the errors of the Jacobians."""
    value, forward, reverse, differences = map(np.asarray, derivatives(entry))
    size, columns = max(1, np.abs(differences).max()), entry.args[0].size
    return Measurement(
        entry.certificate(value, *entry.args),
        np.abs(forward - differences).max() / size,
        np.abs(forward - reverse).max() / size,
        int(np.linalg.matrix_rank(forward[:, :columns], tol=1e-9)),
        columns,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only entries whose name contains this")
    chosen = [entry for entry in ENTRIES if parser.parse_args().word in entry.name]
    print(f"{'entry':28}{'value':>10}{'jacobian':>10}{'modes':>10}{'rank':>8}")
    with jax.enable_x64(True):
        for entry in chosen:
            found = measure(entry)
            errors = f"{found.value:10.1e}{found.jacobian:10.1e}{found.modes:10.1e}"
            print(f"{entry.name:28}{errors}{f'{found.rank}/{found.columns}':>8}", flush=True)


if __name__ == "__main__":
    main()
