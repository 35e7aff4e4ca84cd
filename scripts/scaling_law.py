"""The cost of a hypergradient against samples, unknowns, hyperparameters and devices, and what follows for a large one.

    python scripts/scaling_law.py               sizes on this machine, communication on 8 virtual devices: 10 minutes
    python scripts/scaling_law.py --smoke       the smallest sizes, without the prediction
    python scripts/scaling_law.py --samples 1e9 --unknowns 1e6 --devices 64 --nonzeros 100

The problem is logistic regression by `bl.LBFGS`, its adjoint by `bl.CG`, with one hyperparameter, one for each feature
(penalties) or one for each sample (weights). Seconds are the median step after the first, bytes those that the compiled
step needs beside its arguments. Communication is read from the compiled program: the arrays that devices exchange in a
round of a loop (an inner step, a product) and once a step.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from contextlib import ExitStack
from typing import Any, NamedTuple

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # before jax is loaded

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

import bilevel as bl
from bilevel.training.fit import Fit

KINDS = ("one", "features", "samples")
SIZES = [(2000, 50), (8000, 50), (32000, 50), (8000, 200), (8000, 800)]
SMALL = [(500, 20), (1000, 20), (1000, 40)]
WIDTH = {"f64": 8, "f32": 4, "s64": 8, "s32": 4, "pred": 1, "u32": 4}


def problem(samples: int, features: int, kind: str) -> bl.Task:
    """Logistic regression with hyperparameters of a kind; half as many samples are held out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples + samples // 2, features)) / np.sqrt(features)
    y = np.sign(x @ rng.normal(size=features) + 0.3 * rng.normal(size=len(x)))
    size = {"one": (), "features": (features,), "samples": (samples,)}[kind]

    def losses(w: Any, batch: Any) -> jax.Array:
        return jax.nn.softplus(-batch[1] * (batch[0] @ w))

    def inner(w: Any, h: Any, batch: Any) -> jax.Array:
        if kind == "samples":
            return jnp.mean(jax.nn.sigmoid(h) * losses(w, batch)) + 0.005 * w @ w
        return jnp.mean(losses(w, batch)) + 0.5 * jnp.sum(jnp.exp(h) * w**2)

    return bl.Task(
        inner=bl.InnerProblem(loss=inner, init=lambda key, h: jnp.zeros(features), solver=bl.LBFGS(tol=1e-6)),
        outer_loss=lambda w, h, batch: jnp.mean(losses(w, batch)),
        init_hparams=lambda key: jnp.zeros(size) if kind == "samples" else jnp.full(size, -4.0),
        batches=bl.full_batch((x[:samples], y[:samples]), (x[samples:], y[samples:])),
    )


class Step(NamedTuple):
    """A measured outer step."""

    seconds: float
    passes: float  # gradients and Hessian products, each of which reads the design twice
    scratch: int  # bytes beside the arguments
    program: str  # the text of the compiled step


def measured(task: bl.Task, mesh: dict | None = None, steps: int = 8) -> Step:
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-6), warm_start=False)
    trainer = bl.Trainer(optimizer=optax.sgd(0.01), steps=steps, mesh=mesh, engine=engine)
    with jax.enable_x64(True), ExitStack() as stack:
        fit = Fit(trainer, task, jax.random.key(0), None, stack)
        lines = fit.run(False, {}).metrics
    program = next(iter(fit.advance._found.values())).compiled
    counts = [sum(line[f"counts/{name}"] for name in ("gradients", "hessian_products")) for line in lines]
    seconds = statistics.median(line["seconds"] for line in lines[1:])
    memory: Any = program.memory_analysis()  # None on a device that does not tell
    scratch = memory.temp_size_in_bytes if memory else 0
    return Step(seconds, statistics.median(counts), scratch, program.as_text() or "")


class Law(NamedTuple):
    """What a large problem is extrapolated from."""

    passes: float  # of the largest problem measured
    numbers: tuple[float, float]  # numbers of scratch for each sample and for each unknown


def report_sizes(sizes: list[tuple[int, int]]) -> Law:
    """Prints the table of sizes with the law fitted to it."""
    rows = [(n, p, kind, measured(problem(n, p, kind))) for n, p in sizes for kind in KINDS]
    work = np.array([[step.passes * n * p, step.passes, 1.0] for n, p, _, step in rows])
    seconds = np.array([step.seconds for *_, step in rows])
    law, _ = scipy.optimize.nnls(work / seconds[:, None], np.ones(len(rows)))  # least relative errors
    room = np.array([[n, p, 1.0] for n, p, *_ in rows])
    scratch = np.array([step.scratch for *_, step in rows])
    memory, _ = scipy.optimize.nnls(room / scratch[:, None], np.ones(len(rows)))
    print("samples  unknowns  hyperparameters  passes  ms a step  ms by the law  scratch MB  MB by the law")
    for (n, p, kind, step), row, place in zip(rows, work, room, strict=True):
        print(
            f"{n:7} {p:9} {kind:>16} {step.passes:7.0f} {1e3 * step.seconds:10.2f} {1e3 * row @ law:14.2f}"
            f" {step.scratch / 1e6:11.2f} {place @ memory / 1e6:14.2f}"
        )
    print(
        f"seconds = passes x ({law[0]:.2e} x samples x unknowns + {law[1]:.1e}) + {law[2]:.1e}\n"
        f"scratch bytes = {memory[0]:.0f} x samples + {memory[1]:.0f} x unknowns + {memory[2]:.0f}"
    )
    return Law(rows[-1][-1].passes, (memory[0] / 8, memory[1] / 8))  # measured in float64


class Traffic(NamedTuple):
    """What the devices exchange: numbers of collective operations, and the bytes of their arrays."""

    often: int  # in the bodies of loops
    often_bytes: int
    once: int
    once_bytes: int
    largest: int  # entries of the largest array that is exchanged
    gathered: int  # entries of the largest array that is gathered


OPERATION = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")


def traffic(program: str) -> Traffic:
    """Reads the compiled program. An operation counts as often where a loop calls the computation that it stands in."""
    bodies, calls, name = {}, {}, ""
    for line in program.splitlines():
        if line.rstrip().endswith("{") and "(" in line and "=" not in line.split("(")[0]:
            name = line.removeprefix("ENTRY").split()[0].lstrip("%")
            bodies[name], calls[name] = [], []
        bodies.setdefault(name, []).append(line)
        calls.setdefault(name, []).extend(re.findall(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)", line))
    looped = {one for lines in bodies.values() for one in re.findall(r"body=%?([\w.\-]+)", "\n".join(lines))}
    waiting = list(looped)
    while waiting:
        below = [one for one in calls.get(waiting.pop(), []) if one not in looped]
        looped.update(below)
        waiting += below
    often, once, largest, gathered = [], [], 0, 0
    for name, lines in bodies.items():
        for shapes, kind in OPERATION.findall("\n".join(lines)):
            entries = [
                (WIDTH.get(dtype, 8), int(np.prod([int(n) for n in dims.split(",") if n])))
                for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
            ]
            (often if name in looped else once).append(sum(width * count for width, count in entries))
            biggest = max((count for _, count in entries), default=0)
            largest, gathered = max(largest, biggest), max(gathered, biggest if kind == "all-gather" else 0)
    return Traffic(len(often), sum(often), len(once), sum(once), largest, gathered)


def report_devices(samples: int, features: int) -> None:
    """Prints what is exchanged, by kind of hyperparameters and by devices."""
    print("\nhyperparameters  devices  in loops: operations, bytes  once: operations, bytes  largest  gathered")
    for kind in KINDS:
        for devices in (1, 2, 4, 8):
            if devices > len(jax.devices()):
                continue
            mesh = None if devices == 1 else {"data": devices}
            found = traffic(measured(problem(samples, features, kind), mesh, steps=2).program)
            print(
                f"{kind:>15} {devices:8} {found.often:20} {found.often_bytes:8} {found.once:17} {found.once_bytes:8}"
                f" {found.largest:8} {found.gathered:9}"
            )


def predict(settings: argparse.Namespace, law: Law) -> None:
    """Prints what a large sparse problem takes; the design does not fit where it is dense."""
    n, p, devices = settings.samples, settings.unknowns, settings.devices
    dense, stored = 4 * n * p, 8 * n * settings.nonzeros
    read = 2 * stored / devices / settings.bandwidth
    exchange = 2 * (devices - 1) / devices * 4 * p / settings.link + 2 * np.log2(devices) * settings.latency
    state = 4 * (law.numbers[0] * n / devices + law.numbers[1] * p)
    print(
        f"\n{n:.0e} samples x {p:.0e} unknowns on {devices} devices, float32, {settings.nonzeros:g} entries a sample:\n"
        f"  the design: dense {dense / 1e12:.3g} TB, which does not fit; stored by entries (4 bytes and an index of 4) "
        f"{stored / 1e9:.3g} GB, {stored / devices / 1e9:.3g} GB a device\n"
        f"  beside it, a device: {state / 1e9:.2g} GB ({law.numbers[0]:.0f} numbers a sample, "
        f"{law.numbers[1]:.0f} an unknown)\n"
        f"  a pass reads the design twice: {1e3 * read:.3g} ms at {settings.bandwidth / 1e12:g} TB/s\n"
        f"  a pass sums one vector of the unknowns over the devices: {1e3 * exchange:.3g} ms at "
        f"{settings.link / 1e9:g} GB/s and {1e6 * settings.latency:g} us a hop\n"
        f"  a hypergradient of {law.passes:.0f} passes: {law.passes * (read + exchange):.3g} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes")
    parser.add_argument("--samples", type=float, default=1e9)
    parser.add_argument("--unknowns", type=float, default=1e6)
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--nonzeros", type=float, default=100, help="stored entries a sample")
    parser.add_argument(
        "--bandwidth", type=float, default=1e12, help="bytes a second that a device reads, gathers included"
    )
    parser.add_argument("--link", type=float, default=25e9, help="bytes a second between devices")
    parser.add_argument("--latency", type=float, default=1e-5, help="seconds a hop")
    settings = parser.parse_args()
    law = report_sizes(SMALL if settings.smoke else SIZES)
    report_devices(*((400, 16) if settings.smoke else (8192, 256)))
    if not settings.smoke:  # whose sizes are too small to extrapolate from
        predict(settings, law)


if __name__ == "__main__":
    main()
