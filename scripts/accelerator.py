"""The device that JAX finds, a GPU say, beside the CPU of the same machine: one table of seconds, ratio and error.

    python scripts/accelerator.py                       all arms, in 8 minutes at most
    python scripts/accelerator.py svm programs --small  some of them, on small instances: a try
    python scripts/accelerator.py --benchmarks qp svm   benchmarks of experiments/peers on this device, without peers

Arms are shipped tasks (seconds of an outer step), batches of quadratic programs and a support vector machine (seconds
of a call, with the gradient), and the same by JAXopt and qpax where they are installed. Each arm runs in a process of
its own, first on the device, then with JAX_PLATFORMS=cpu. Seconds are the median after the first call, which compiles.
The error is that of what was computed on the device, relative to the CPU's. A package, a data set or a device that is
missing, and an arm that fails or runs out of time, is a sentence beside the table. The table is written after each arm,
to DIR/DEVICE.csv (DIR: experiments/accelerator; with --small a temporary folder). `--device cpu` takes the CPU for
both, which tries the script where there is no accelerator. MNIST and Omniglot are read from the folder in BILEVEL_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerator_arms import ARMS

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "experiments" / "peers"
BENCHMARKS = ("qp", "svm", "lasso", "logistic", "search", "scaling")
SHARE = 3  # an arm may take so many times its equal share of the time that is left
COLUMNS = ("arm", "device_seconds", "cpu_seconds", "cpu_over_device", "device_first", "cpu_first", "error", "note")


class Run(NamedTuple):
    """What one process found; where it found nothing, ``note`` says why."""

    device: str = ""
    first: float = float("nan")
    seconds: float = float("nan")
    values: Mapping[str, np.ndarray] = {}
    note: str = ""


def device(environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """JAX's platform and the device's name, asked for in a process that ends: one that stays would keep the memory of
    the GPU."""
    code = (
        "import jax; from experiments.peers.common import device_name; print(jax.default_backend()); "
        "print(device_name())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"JAX finds no device: {done.stderr.strip().splitlines()[-1]}")
    platform, name = done.stdout.strip().splitlines()[-2:]
    return platform, name


def run(arm: str, environment: Mapping[str, str], seconds: float, words: Sequence[str]) -> Run:
    """The arm in a process of its own, ended after so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "scripts" / "accelerator_arms.py"), arm, folder, *words]
        with (Path(folder) / "told.txt").open("w+") as told:
            try:
                code = subprocess.run(
                    command, env={**os.environ, **environment}, stdout=told, stderr=told, timeout=seconds, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                return Run(note=f"did not end within its {seconds:.0f} seconds")
            told.seek(0)
            lines = [line.strip() for line in told if line.strip()]
        if code:
            return Run(note=lines[-1].rstrip(".") if lines else f"ended with exit status {code}")
        facts = json.loads((Path(folder) / "found.json").read_text())
        with np.load(Path(folder) / "found.npz") as values:
            return Run(facts["device"], facts["first"], statistics.median(facts["later"]), dict(values))


def error(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
    """The largest of ||found - truth|| / ||truth|| over what was computed; infinite where something is not finite.

    >>> error({"x": np.array([3.0, 4.1])}, {"x": np.array([3.0, 4.0])})
    0.02
    """
    largest = 0.0
    for name, true in truth.items():
        away = float(np.linalg.norm(np.asarray(found[name]) - true)) / max(float(np.linalg.norm(true)), 1e-300)
        largest = max(largest, away if np.isfinite(away) else float("inf"))
    return round(largest, 20)


def row(arm: str, there: Run | None, cpu: Run) -> dict[str, Any]:
    """The row of an arm; without an accelerator the CPU's half of it."""
    notes = {"device": there.note if there else "", "CPU": cpu.note}
    both = there is not None and there.values and cpu.values
    return {
        "arm": ARMS[arm].words,
        "device_seconds": there.seconds if there else float("nan"),
        "cpu_seconds": cpu.seconds,
        "cpu_over_device": cpu.seconds / there.seconds if there else float("nan"),
        "device_first": there.first if there else float("nan"),
        "cpu_first": cpu.first,
        "error": error(there.values, cpu.values) if there and both else float("nan"),
        "note": "; ".join(dict.fromkeys(f"{where}: {note}" for where, note in notes.items() if note)),
    }


def compared(
    arms: Sequence[str], environment: Mapping[str, str] | None, minutes: float, small: bool, out: Path
) -> None:
    """Runs the arms within the time; None as environment means that there is no accelerator."""
    _, there = device(environment)
    _, here = device({"JAX_PLATFORMS": "cpu"})
    path = out / f"{''.join(letter if letter.isalnum() else '-' for letter in there)}.csv"
    places = [*([environment] if environment is not None else []), {"JAX_PLATFORMS": "cpu"}]
    end, left = time.monotonic() + 60 * minutes, len(arms) * len(places)
    rows = []
    for arm in arms:
        found = []
        for place in places:
            limit = max(end - time.monotonic(), 0.0) * min(1.0, SHARE / left)
            words = [*(["--small"] if small else []), "--seconds", f"{min(10.0, limit / 10):.2f}"]
            found.append(run(arm, place, limit, words) if limit > 1 else Run(note="no time was left for it"))
            left -= 1
        rows.append(row(arm, found[0] if len(found) > 1 else None, found[-1]))
        write(path, rows, there, here)
        print(told(rows[-1]), flush=True)
    print(f"\n{table(rows, there, here)}\n\nWritten to {path}.")


def told(one: Mapping[str, Any]) -> str:
    """The line of an arm that has just run."""
    return (
        f"{one['arm']}: {number(one['device_seconds'])} s on the device, {number(one['cpu_seconds'])} s on the CPU"
        + (f" ({one['note']})" if one["note"] else "")
    )


def number(value: float) -> str:
    """
    >>> number(0.01234567), number(float("nan"))
    ('0.01235', '-')
    """
    return "-" if np.isnan(value) else f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]], there: str, here: str) -> str:
    """The rows in Markdown, with a sentence below for each row that is not complete."""
    heads = ("what", f"seconds, {there}", f"seconds, {here}", "CPU / device", "first call, device", "CPU", "error")
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for one in rows:
        lines.append(f"| {' | '.join([one['arm'], *(number(one[name]) for name in COLUMNS[1:-1])])} |")
    return "\n".join([*lines, *(f"\n- {one['arm']}: {one['note']}." for one in rows if one["note"])])


def write(path: Path, rows: Sequence[Mapping[str, Any]], there: str, here: str) -> None:
    """The rows as CSV, with the names of both devices beside each."""
    from experiments.common import write as write_csv

    cells = [[one["arm"], *(number(one[name]) for name in COLUMNS[1:-1]), one["note"], there, here] for one in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [*COLUMNS, "device", "cpu"], cells)


def benchmarks(names: Sequence[str], smoke: bool, out: Path) -> None:
    """Runs benchmarks of experiments/peers without peers; their tables, figures and output go to OUT/DEVICE. SystemExit
    at the end where one failed."""
    name = device()[1]
    folder = out.resolve() / "".join(letter if letter.isalnum() else "-" for letter in name)
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for benchmark in names:
        command = [sys.executable, "-m", f"experiments.peers.{benchmark}", "--out", str(folder)]
        began = time.perf_counter()
        with (folder / f"{benchmark}.txt").open("w") as log:
            code = subprocess.run(
                [*command, *(["--smoke"] if smoke else [])], cwd=ROOT, stdout=log, stderr=log, check=False
            ).returncode
        print(
            f"{benchmark}: {'done' if not code else 'FAILED'} in {time.perf_counter() - began:.0f} s on {name}",
            flush=True,
        )
        failed += [benchmark] if code else []
    print(f"written to {folder}")
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}; their output is in {folder}.")


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--device", default="", help="a platform of JAX, as cpu; by default the one that JAX takes")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all arms together")
    parser.add_argument("--small", action="store_true", help="small instances")
    parser.add_argument("--benchmarks", nargs="+", default=[], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=Path, help="the folder to write to")
    given = parser.parse_args()
    for kind, names, known in (("arm", given.arms, ARMS), ("benchmark", given.benchmarks, BENCHMARKS)):
        if unknown := sorted(set(names) - set(known)):
            parser.error(f"no {kind} {', '.join(unknown)}: there are {', '.join(known)}.")
    return given


def main() -> None:
    sys.path.insert(0, str(ROOT))
    given = settings()
    if given.benchmarks:
        benchmarks(given.benchmarks, given.small, given.out or PEERS / "results")
        return
    out = given.out or (Path(tempfile.mkdtemp()) if given.small else ROOT / "experiments" / "accelerator")
    environment = {"JAX_PLATFORMS": given.device} if given.device else {}
    if not given.device and device()[0] == "cpu":
        print(
            "JAX finds no accelerator here, so the table has the CPU alone; --device cpu takes it for both.", flush=True
        )
        environment = None
    compared(given.arms, environment, given.minutes, given.small, out)


if __name__ == "__main__":
    main()
