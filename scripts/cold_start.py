"""Wall seconds of `bilevel` from the start of the process to its first outer step, without a compilation cache.

python scripts/cold_start.py [--repeats 3] [OVERRIDE ...]        # as task=lasso; a quarter of a minute each
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(overrides: list[str]) -> tuple[float, float]:
    """Seconds to the first line of the record, and to the end of the run."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run" / "metrics.jsonl"
        settings = ["compilation_cache=null", "logger=jsonl", f"hydra.run.dir={record.parent}", *overrides]
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "bilevel", *settings], cwd=folder, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (record.is_file() and record.stat().st_size):
            time.sleep(0.01)
        first = time.perf_counter() - begin
        if process.wait():
            raise SystemExit(f"bilevel {' '.join(overrides)} ended with {process.returncode}; its message is above.")
        return first, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    settings = parser.parse_args()
    for number in range(settings.repeats):
        first, whole = timed(settings.overrides)
        print(f"run {number + 1}: first outer step after {first:.2f} s, whole run {whole:.2f} s", flush=True)


if __name__ == "__main__":
    main()
