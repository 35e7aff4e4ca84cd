"""Peers run in processes of their own, each in its environment; what they find is measured here."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from problems import PROBLEMS, Problem

FOLDER = Path(__file__).parent / "peers"
PEERS = sorted(path.stem.removeprefix("run_") for path in FOLDER.glob("run_*.py"))


@dataclass(frozen=True)
class Found:
    """A solution of a peer at one of its tolerances."""

    problem: str
    solver: str
    seconds: float
    residual: float  # of our problem, relative to its cold start


def run_peers(problems: list[str], peers: dict[str, str]) -> Iterator[Found]:
    """All solutions of the peers (name -> interpreter); one that is not installed says so, and is left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, problem in enumerate(problems):
            np.savez(folder / f"{number}.npz", **PROBLEMS[problem]().form)  # type: ignore[arg-type]  # numpy types **kwds as its own flags
        for peer, python in peers.items():
            print(f"{peer} ...", file=sys.stderr, flush=True)
            code = subprocess.run([python, str(FOLDER / f"run_{peer}.py"), name], check=False).returncode
            if code:
                print(f"{peer} did not run in {python}: see experiments/solvers/README.md", file=sys.stderr)
        for number, problem in enumerate(problems):
            measure = residual_of(PROBLEMS[problem]())
            for peer in peers:
                path = folder / f"run_{peer}" / f"{number}.npz"
                if path.exists():
                    yield from _measured(problem, peer, path, measure)


def _measured(problem: str, peer: str, path: Path, measure) -> Iterator[Found]:
    with np.load(path) as archive:
        found = dict(archive)
    for key in found:
        label, number, name = key.rsplit("/", 2)
        if name == "seconds":
            parts = {
                part: found.get(f"{label}/{number}/{part}") for part in ("params", "equality_dual", "inequality_dual")
            }
            yield Found(problem, f"{peer}: {label}", float(found[key]), measure(parts))


def residual_of(problem: Problem):
    """The natural residual at what a peer returned, relative to the cold start; infinite where it is not finite."""
    inner, hparams, batch = problem.inner, problem.hparams, problem.batch
    cold = inner.cold_start(jax.random.key(0), hparams, batch)
    instance = inner.at(hparams, batch)
    norm = jax.jit(instance.residual_norm)
    reference = float(norm(cold))

    def measure(parts: dict) -> float:
        leaves, structure = jax.tree.flatten(cold)  # params alone, or with the multipliers of the rows that there are
        arrays = [jnp.asarray(part) for part in parts.values() if part is not None and np.size(part)]
        point = jax.tree.unflatten(structure, [a.reshape(like.shape) for like, a in zip(leaves, arrays, strict=False)])
        residual = float(norm(point)) / reference
        return residual if math.isfinite(residual) else math.inf

    return measure
