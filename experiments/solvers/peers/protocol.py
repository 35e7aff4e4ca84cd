"""What the process of a peer does: read problems, time its solvers at every tolerance, write what they found.

    python peers/run_osqp.py FOLDER          # problems FOLDER/*.npz -> FOLDER/run_osqp/*.npz

A problem is a set of arrays with the names of the forms it comes in (see ../forms.py). A peer is a table

    {form: {label: prepare}},   prepare(arrays) -> run,   run(tol) -> {"params": ..., and maybe duals}

where preparing (conversion of data, compilation at the first run) is not timed. NumPy only: it runs in any environment.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = 10.0 ** -np.arange(1, 15)
REPEATS = 3
PATIENCE = 1.0  # seconds for one solve, beyond which a solver is not asked for more accuracy
LONG = 0.2  # and beyond which it is not repeated
SETTLED = 0.05  # seconds to wait before the first reading, in which compilation or another solve is still booked
ENOUGH = 0.02  # seconds that one reading of the clock spans at least: the kernel books a thread's time every few ms

Run = Callable[[float], dict]
Peer = dict[str, dict[str, Callable[[dict], Run]]]


def serve(peer: Peer) -> None:
    folder = Path(sys.argv[1])
    results = folder / Path(sys.argv[0]).stem
    results.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")  # solvers warn at every tolerance that they miss; here that is measured
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as archive:
            arrays = dict(archive)
        found: dict[str, np.ndarray] = {}
        for form in arrays.pop("forms"):
            for label, prepare in peer.get(str(form), {}).items():
                found |= sweep(label, prepare, arrays)
        if found:
            np.savez(results / path.name, **found)  # type: ignore[arg-type]  # numpy types **kwds as its own flags


class CannotDo(Exception):
    """Raised by a peer on a problem that it is not made for."""


def sweep(label: str, prepare: Callable[[dict], Run], arrays: dict) -> dict[str, np.ndarray]:
    """Each tolerance, from loose to tight: the least processor time of the repeats, and the solution."""
    found: dict[str, np.ndarray] = {}
    try:
        run = prepare(arrays)
        run(TOLERANCES[0])  # whatever is compiled or imported at first
        for number, tol in enumerate(TOLERANCES):
            seconds, result = timed(run, tol)
            for name, value in (result | {"seconds": np.float64(seconds)}).items():
                found[f"{label}/{number}/{name}"] = np.asarray(value)
            if seconds > PATIENCE:
                break
    except CannotDo:
        pass
    except Exception as error:  # a peer that breaks down keeps what it found before; which is said
        print(f"{label}: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def timed(run: Run, tol: float) -> tuple[float, dict]:
    return processor_seconds(lambda: run(tol), REPEATS, LONG)


def processor_seconds(run: Callable[[], Any], repeats: int, long: float) -> tuple[float, Any]:
    """The least processor time (all threads) of one run, short ones being averaged over many; and its result."""
    least, number, result = float("inf"), 1, None
    time.sleep(SETTLED)
    for _ in range(repeats + 1):  # the first reading only says how many runs make one
        began = time.process_time()
        for _ in range(number):
            result = run()
        seconds = (time.process_time() - began) / number
        if seconds > long:
            return min(least, seconds), result
        if number > 1 or seconds > ENOUGH:
            least = min(least, seconds)
        number = max(1, min(100, int(ENOUGH / max(seconds, 1e-6)) + 1))
    return least, result
