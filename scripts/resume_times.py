"""Seconds from `Trainer.fit(resume=True)` to the first new outer step, after runs of several lengths.

    python scripts/resume_times.py [--steps 1000 10000 100000] [--repeats 5]       # two minutes

Each run is resumed for one step, several times, and the smallest time counts. It has a compilation in it, which is the
same after runs of every length, and so do the seconds from that step to the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import optax
from steps_per_call import ridge

import bilevel as bl
from bilevel.loggers import JsonLines


def resumed(folder: Path, steps: int) -> tuple[float, float]:
    """Seconds to the first step after ``steps`` of the run in the folder, and from there to the end."""
    moments = [time.perf_counter()]
    first = lambda moment: moments.append(time.perf_counter()) if moment.step == steps else None
    trainer = bl.Trainer(
        optimizer=optax.adam(1e-3), steps=steps + 1, steps_per_call=50, checkpoint_every=steps + 1, callbacks=[first]
    )
    trainer.fit(ridge(), directory=folder, resume=True)
    return moments[1] - moments[0], time.perf_counter() - moments[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    settings = parser.parse_args()
    for steps in settings.steps:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            trainer = bl.Trainer(optimizer=optax.adam(1e-3), steps=steps, steps_per_call=1000, checkpoint_every=steps)
            trainer.fit(ridge(), directory=folder)
            size = (folder / JsonLines.filename).stat().st_size
            found = [resumed(folder, steps + number) for number in range(settings.repeats + 1)][1:]
            first, rest = (min(column) for column in zip(*found, strict=True))
            told = f"{first:.2f} s to the first step, {rest:.2f} s to the end"
            print(f"{steps} steps, a record of {size / 1e6:.1f} MB: {told}", flush=True)


if __name__ == "__main__":
    main()
