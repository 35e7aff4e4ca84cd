"""Runs the benchmarks of experiments/peers on the device that JAX finds, a GPU say, and keeps their results apart.

    python scripts/accelerator.py [svm qp ...] [--smoke] [--out DIR]

Without peers, which are CPU packages for the most part. Each benchmark runs in a process of its own; its table, figure
and output go to DIR/DEVICE (DIR: experiments/peers/results), the device's name being in each row. A benchmark that
fails is told at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "experiments" / "peers"
BENCHMARKS = ("qp", "svm", "lasso", "logistic", "search", "scaling")


def device() -> str:
    """The device's name, asked for in a process that ends: one that stays would keep the memory of the GPU."""
    code = "from experiments.peers.common import device_name; print(device_name())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"JAX finds no device: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", default=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--smoke", action="store_true", help="the short form of each")
    parser.add_argument("--out", type=Path, default=PEERS / "results", help="where the folder of the device goes")
    settings = parser.parse_args()
    if unknown := sorted(set(settings.benchmarks) - set(BENCHMARKS)):
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}.")
    name = device()
    out = settings.out.resolve() / "".join(letter if letter.isalnum() else "-" for letter in name)
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for benchmark in settings.benchmarks:
        command = [sys.executable, "-m", f"experiments.peers.{benchmark}", "--out", str(out)]
        began = time.perf_counter()
        with (out / f"{benchmark}.txt").open("w") as log:
            code = subprocess.run(
                [*command, *(["--smoke"] if settings.smoke else [])], cwd=ROOT, stdout=log, stderr=log, check=False
            ).returncode
        print(
            f"{benchmark}: {'done' if not code else 'FAILED'} in {time.perf_counter() - began:.0f} s on {name}",
            flush=True,
        )
        failed += [benchmark] if code else []
    print(f"written to {out}")
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}; their output is in {out}.")


if __name__ == "__main__":
    main()
