"""The process of a peer: reads a problem, then runs one of its arms each time it is asked to.

    python served/NAME.py FOLDER            # the problem is FOLDER/problem.npz

A script is a table {arm: prepare}, prepare(arrays) -> run, run() -> {name: array}. Lines on standard input are
`{"arm": ..., "repeats": n}`; the answers, one line each, hold wall and processor seconds of each run and the name of
the file with its results. The first run of an arm prepares and compiles, which is timed on its own. NumPy only here.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[], dict]
Arms = dict[str, Callable[[dict], Run]]


def serve(arms: Arms) -> None:
    """Answers until standard input ends. What the packages print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    with np.load(folder / "problem.npz") as archive:
        arrays = dict(archive)
    print(json.dumps({"arms": list(arms)}), file=answers, flush=True)
    ready: dict[str, Run] = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = _answer(arms, arrays, ready, question, folder)
        except Exception as error:  # an arm that breaks down is reported, and the others go on
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(arms: Arms, arrays: dict, ready: dict[str, Run], question: dict, folder: Path) -> dict:
    arm = question["arm"]
    compile_seconds = 0.0
    if arm not in ready:
        began = time.perf_counter()
        run = arms[arm](arrays)
        run()
        compile_seconds = time.perf_counter() - began
        ready[arm] = run
    seconds, processor, result = [], [], {}
    for _ in range(question["repeats"]):
        began = time.perf_counter(), time.process_time()
        result = ready[arm]()
        seconds.append(time.perf_counter() - began[0])
        processor.append(time.process_time() - began[1])
    path = folder / f"{list(arms).index(arm)}-{os.getpid()}.npz"
    np.savez(path, **{name: np.asarray(value) for name, value in result.items()})  # type: ignore[arg-type]  # numpy types **kwds as its own flags
    return {"seconds": seconds, "cpu_seconds": processor, "compile_seconds": compile_seconds, "result": str(path)}
