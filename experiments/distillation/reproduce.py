"""Dataset distillation: ten learned images, implicit against unrolled, and the linear case.

    BILEVEL_DATA=DIR python experiments/distillation/reproduce.py [--smoke] [--out DIR]

DIR holds the MNIST test split as published; its 10,000 images are split 8,000 / 2,000. ``--smoke`` takes digits. Writes
results.csv, curves.png and images.png, prints tables, and asserts the claims.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from arms import interleaved
from figure import draw, draw_images
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import bilevel as bl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common import folder, parser, write

HERE = Path(__file__).resolve().parent
PENALTIES = {"1e-3": 2e-3, "0.05": 0.1, "0.1": 0.2}  # epsilon of epsilon ||w||^2, as penalty / 2
COLUMNS = ("run", "step", "quantity", "value")
SHARES: dict[str, Any] = {"train": 0.76, "stop": 0.04}  # the rest, a fifth, is held out


def curves(data: str, steps: int) -> tuple[list[tuple], dict]:
    """Learning curves for each regularisation by the kernel form of the inner problem; the rows and the results."""
    rows, results = [], {}
    for epsilon, penalty in PENALTIES.items():
        task = bl.tasks.distillation(data=data, **SHARES, penalty=penalty, form="kernel")
        task = task if not results else replace(task, baselines=dict)  # the same for all
        # With a constant rate the loss rises again from step 150 on, and where a run ends is left to rounding.
        optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))
        trainer = bl.Trainer(optimizer=optimizer, engine=bl.Implicit(accuracy="residual"), steps=steps)
        results[epsilon] = trainer.fit(task, key=jax.random.key(0))
        for line in results[epsilon].metrics:
            rows += [
                (epsilon, line["step"], name, line[name]) for name in ("test/accuracy", "outer/loss") if keep(line)
            ]
        summary = results[epsilon].summary
        rows += [(epsilon, summary["best_step"], name, summary[name]) for name in ("test_accuracy", "seconds_per_step")]
        print(
            f"epsilon {epsilon}: held-out accuracy {100 * summary['test_accuracy']:.2f} % (chosen step "
            f"{summary['best_step']}), at the last {100 * summary['last_test_accuracy']:.2f} %; "
            f"{summary['seconds_per_step']:.3f} s a step",
            flush=True,
        )
    first = results["1e-3"].summary
    rows.append(("real images", 0, "test_accuracy", first["baseline_real_accuracy"]))
    print(f"softmax regression on all real images: {100 * first['baseline_real_accuracy']:.2f} %", flush=True)
    return rows, results


def keep(line: dict) -> bool:
    """The steps that results.csv has."""
    return line["step"] < 20 or line["step"] % 5 == 0


def linear(data: str, iterations: int) -> float:
    """The distance from the full-data ridge regression that one learned pair for each class reaches, by L-BFGS."""
    task = bl.tasks.linear_distillation(data=data, train=0.8)
    start, rebuild = ravel_pytree(task.init_hparams(jax.random.key(0)))
    engine = bl.Implicit(accuracy="residual")

    def level(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad, _ = bl.hypergradient(task, rebuild(jnp.asarray(flat)), engine)
        return float(value), np.asarray(ravel_pytree(grad)[0])

    options = {"maxiter": iterations, "maxfun": 4 * iterations, "maxcor": 50, "ftol": 0.0, "gtol": 1e-12}
    flat = minimize(level, np.asarray(start), jac=True, method="L-BFGS-B", options=options).x
    hparams = rebuild(jnp.asarray(flat))
    params = bl.hypergradient(task, hparams, engine)[2].params
    return float(task.evaluate(params, hparams)["full/distance"])


def main() -> None:
    settings = parser(__doc__, "digits, few steps").parse_args()
    out = folder(settings, HERE)
    data, steps, timed = ("digits", 120, 5) if settings.smoke else ("mnist", 300, 20)
    with jax.enable_x64(True):
        found, apart = interleaved(data, SHARES, PENALTIES["1e-3"], timed)
        report(found, apart, timed)
        distance = linear(data, 1500)
        print(f"linear case: {distance:.1e} from the full-data ridge regression (relative)", flush=True)
        rows, results = curves(data, steps)
    rows += [(arm, timed, quantity, value) for arm, numbers in found.items() for quantity, value in numbers.items()]
    rows.append(("linear", 0, "full/distance", distance))
    write(out / "results.csv", COLUMNS, [(*row[:-1], f"{row[-1]:.5g}") for row in rows])
    draw(out / "results.csv", out / "curves.png")
    side = 8 if data == "digits" else 28
    learned = {e: np.asarray(result.hparams).reshape(-1, side, side) for e, result in results.items()}
    draw_images(learned, out / "images.png")
    print(f"written to {out}")
    claims(results, found, apart, distance, full=not settings.smoke)


def report(found: dict[str, dict], apart: float, steps: int) -> None:
    """The table of the ways to the hypergradient."""
    for arm, numbers in found.items():
        print(f"{arm:>32}: " + ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()))
    print(f"images after {steps} equal outer steps, implicit and unrolled: {apart:.1e} apart (relative)", flush=True)


def claims(results: dict, found: dict, apart: float, distance: float, full: bool) -> None:
    """What is claimed; speed and MNIST accuracy of the full run only."""
    best = results["1e-3"].summary
    assert distance <= 1e-6, f"the linear case ends {distance} from the full-data solution"
    assert apart <= 1e-2, f"implicit and unrolled images differ by {apart}"
    assert best["test_accuracy"] >= 0.885, f"held-out accuracy {best['test_accuracy']}"
    if full:
        error = (best["test_accuracy"] * (1 - best["test_accuracy"]) / 2000) ** 0.5  # of 2,000 held-out images
        assert best["test_accuracy"] >= best["baseline_real_accuracy"] - error
        at_50 = results["0.05"].metrics[50]["test/accuracy"]
        assert at_50 >= 0.84, f"with the author's regularisation, {at_50} at step 50"
        # Not against an unrolled loop that stops when it has converged: README.md.
        seconds = {arm: numbers["wall seconds"] for arm, numbers in found.items()}
        ratio = seconds["unrolled, plain scan of 4000"] / seconds["implicit, gradient descent"]
        assert ratio >= 4, f"unrolled takes only {ratio} times as long"


if __name__ == "__main__":
    main()
