"""Runs the commands behind the figures and tables of docs/ and experiments/, and keeps when, where and on what.

    python scripts/refresh.py                   all of them, one after the other: hours
    python scripts/refresh.py --only NAME ...   some of them
    python scripts/refresh.py --list            what each is, when it was taken, and whether its code has changed since
    python scripts/refresh.py --only peers_qp --peers jaxopt=PYTHON qpax=PYTHON cvxpylayers=PYTHON

A benchmark beside other packages needs an interpreter for each of them (experiments/peers/README.md). Without all of
them it is left out, because its table would lose their rows.

What a command prints goes to experiments/measured/NAME.txt, under a head with the command, the date, the machine and
the commit; the files that it writes lie where the pages show them. docs/measurements.md is written from the heads. The
record of a command that fails stays as it was.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from figures import TABLE, Measured

ROOT = Path(__file__).resolve().parent.parent
MEASURED, PAGE = ROOT / "experiments/measured", ROOT / "docs/measurements.md"
BEGIN = "<!-- python scripts/refresh.py: begin -->\n"
CACHE = "JAX_COMPILATION_CACHE_DIR"  # times of compilation are taken without one
FIELDS = ("command", "date", "machine", "commit", "seconds", "code")


def script(command: str) -> str:
    """The file of a command; "" where it is no Python file.

    >>> script("python -m experiments.reuse.benchmark"), script("python scripts/gallery.py --smoke")
    ('experiments/reuse/benchmark.py', 'scripts/gallery.py')
    """
    module = re.search(r"python -m (\S+)", command)
    path = re.search(r"python (\S+\.py)", command)
    return f"{module[1].replace('.', '/')}.py" if module else path[1] if path else ""


def set_before(command: str) -> tuple[dict[str, str], str]:
    """What a command sets in its environment, and the rest of it.

    >>> set_before("OPENBLAS_NUM_THREADS=1 bilevel task=ridge")
    ({'OPENBLAS_NUM_THREADS': '1'}, 'bilevel task=ridge')
    """
    found = re.match(r"(?:[A-Z_]+=\S+ )*", command)
    settings = found[0] if found else ""
    return dict(pair.split("=", 1) for pair in settings.split()), command[len(settings) :]


def digest(one: Measured) -> str:
    """A fingerprint of the code that a command measures: of the paths and contents of its Python and settings files."""
    found = hashlib.sha256()
    for place in sorted({script(one.command), *one.measures} - {""}):
        path = ROOT / place
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".yaml", ".toml") and file.is_file():
                found.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def head(name: str) -> dict[str, str]:
    """What is known of the last run of a command: `FIELDS`; {} where there is none."""
    path = MEASURED / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    told = (re.fullmatch(r"# (\w+): (.*)", line) for line in lines[: len(FIELDS)])
    return {found[1]: found[2] for found in told if found}


def older() -> list[str]:
    """The names whose code has changed since they were taken."""
    return [name for name, one in TABLE.items() if head(name).get("code") != digest(one)]


def machine() -> str:
    """The number of cores and whether other work shares them, the system, and the device of JAX.

    >>> "cores" in machine()
    True
    """
    import jax

    cores, device = os.cpu_count(), jax.devices()[0].device_kind
    system = f"{cores} cores, {platform.machine()}, {platform.system()}"
    load = os.getloadavg()[1]
    shared = f", shared with other work (load {load:.0f})" if load > 1.5 * (cores or 1) else ""
    return f"{system}{shared}; Python {platform.python_version()}, JAX {jax.__version__} on {device}"


def commit() -> str:
    """The commit of the tree, with a + where the tree differs from it."""
    said = [
        subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    return (said[0] or "unknown") + ("+" if said[1] else "")


def refresh(name: str, interpreters: Mapping[str, str]) -> bool:
    """Runs the command of a name and keeps what it found. Returns whether it succeeded."""
    one, began, at = TABLE[name], time.time(), commit()
    if missing := [module for module in one.modules if importlib.util.find_spec(module) is None]:
        print(f"{name}: left out, because it needs {', '.join(missing)} in this environment", file=sys.stderr)
        return False
    if missing := [peer for peer in one.peers if peer not in interpreters]:
        wanted = " ".join(f"{peer}=PYTHON" for peer in missing)
        print(f"{name}: left out, because its table has rows of other packages: --peers {wanted}", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as scratch:
        settings, command = set_before(one.command.replace("{scratch}", f"{scratch}/run"))
        command = command.replace("python", sys.executable, 1)
        if one.peers and " --peers " not in command:
            command += " --peers"
        command += "".join(f" {peer}={interpreters[peer]}" for peer in one.peers)
        plain = {name: value for name, value in os.environ.items() if name != CACHE}
        environment = {**plain, "PYTHONPATH": str(ROOT), **settings}
        done = subprocess.run(
            command.split(), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            print(f"{name}: exit code {done.returncode}\n{done.stdout[-2000:]}", file=sys.stderr, flush=True)
            return False
        for source, target in one.taken:
            (ROOT / target).write_bytes((Path(scratch) / "run" / source).read_bytes())
        said = done.stdout.replace(str(ROOT), ".").replace(f"{scratch}/run", "DIR").rstrip()
        said += summarised(Path(scratch) / "run/summary.json")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    values = (one.command, today, machine(), at, f"{time.time() - began:.0f}", digest(one))
    lines = [f"# {field}: {value}" for field, value in zip(FIELDS, values, strict=True)]
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / f"{name}.txt").write_text("\n".join([*lines, "", said, ""]), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{name}: taken in {time.time() - began:.0f} s", flush=True)
    return True


def summarised(path: Path) -> str:
    """An empty line and the numbers of a run's summary, a line each; "" where there is no summary."""
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    numbers = {name: value for name, value in summary.items() if type(value) is float and "seconds" not in name}
    return "".join(["\n", *(f"\n{name} {value:.5g}" for name, value in numbers.items())]) if numbers else ""


def rows() -> Iterator[str]:
    """The table of docs/measurements.md."""
    yield "| name | command | date | commit | seconds | machine |"
    yield "|---|---|---|---|---|---|"
    for name, one in TABLE.items():
        told = head(name)
        cells = (told.get(field, "not taken by this script yet") for field in ("date", "commit", "seconds", "machine"))
        command = one.command.replace("{scratch}", "DIR")
        yield f"| {name} | `{command}` | {' | '.join(cells if told else ['before this list', '', '', ''])} |"


def with_table(text: str) -> str:
    """The text of the page with the table as it should be."""
    return text.split(BEGIN)[0] + BEGIN + "\n".join(rows()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the figures and tables of docs/ and experiments/ again.")
    parser.add_argument("--only", nargs="+", choices=list(TABLE), metavar="NAME", default=list(TABLE))
    parser.add_argument("--list", action="store_true", help="run nothing; say when each was taken")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help="interpreters of other packages")
    given = parser.parse_args()
    if wrong := [pair for pair in given.peers if "=" not in pair]:
        parser.error(f"--peers {wrong[0]}: write NAME=PYTHON.")
    interpreters = dict(pair.split("=", 1) for pair in given.peers)
    if given.list:
        old = older()
        for name in given.only:
            told = head(name)
            when = f"{told['date']} at {told['commit']}" if told else "not taken by this script yet"
            print(f"{name:<26}{when}{', its code has changed since' if told and name in old else ''}")
        return
    failed = [name for name in given.only if not refresh(name, interpreters)]
    sys.exit(f"failed or left out: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
