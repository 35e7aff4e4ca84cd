"""How long a default run of each shipped task takes, from the start of the process to its end, with nothing compiled.
It also prints the numbers of the runs' summaries, which the first table of docs/tasks.md takes its figures from.

    python scripts/task_times.py                  all of them; writes the table of docs/tasks.md
    python scripts/task_times.py --only NAME ...  some; the others of the table stay

Processor seconds are those of all threads together. On a machine that other work shares they say more than the wall
clock, and on an idle one a run takes less than that by the wall clock, because compilation uses two cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bilevel.cli.choices import files

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tasks.md"
BEGIN, END = "<!-- python scripts/task_times.py: begin -->\n", "<!-- end -->\n"
WITHOUT = ("own", "meta_omniglot", "meta_omniglot_maml")  # no task by itself; these need files that do not ship
HEAD = "| task | processor seconds | seconds by the wall clock | taken |\n|---|---|---|---|\n"


def timed(task: str) -> tuple[float, float, dict[str, float]]:
    """Processor and wall seconds of ``bilevel task=NAME``, and the numbers of its summary. RuntimeError with its last
    words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "bilevel", f"task={task}", "compilation_cache=null", f"output={folder}/run")
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"bilevel task={task}: {done.stderr.decode()[-2000:]}")
        summary = json.loads((Path(folder) / "run/summary.json").read_text(encoding="utf-8"))
        numbers = {name: value for name, value in summary.items() if type(value) is float and "seconds" not in name}
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, numbers


def known(text: str) -> dict[str, str]:
    """{task: its row} of the table in the page."""
    return dict(re.findall(r"^(?=\| `(\w+)` \|)(.*)$", text.split(BEGIN)[1].split(END)[0], re.MULTILINE))


def with_rows(text: str, rows: dict[str, str]) -> str:
    """The page with these rows."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + HEAD + "".join(f"{rows[task]}\n" for task in sorted(rows)) + END + rest.split(END, 1)[1]


def main() -> None:
    tasks = [name for name in files("task") if name not in WITHOUT]
    parser = argparse.ArgumentParser(description="Measure the default run of each shipped task.")
    parser.add_argument("--only", nargs="+", choices=tasks, metavar="NAME", default=tasks)
    for task in parser.parse_args().only:
        processor, wall, numbers = timed(task)
        shared = f" (load {os.getloadavg()[1]:.0f})" if os.getloadavg()[1] > 1.5 * (os.cpu_count() or 1) else ""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        text = PAGE.read_text(encoding="utf-8")
        row = f"| `{task}` | {processor:.0f} | {wall:.0f}{shared} | {today} |"
        PAGE.write_text(with_rows(text, {**known(text), task: row}), encoding="utf-8")
        print(row, *(f"    {name} {value:.4g}" for name, value in numbers.items()), sep="\n", flush=True)


if __name__ == "__main__":
    main()
