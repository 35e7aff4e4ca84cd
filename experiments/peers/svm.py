"""A multiclass support vector machine: the hypergradient of its penalty, against JAXopt.

    python -m experiments.peers.svm [--smoke] [--peers jaxopt=ENV/bin/python]        # about 5 minutes

Crammer-Singer dual of the paper (section 4.1): 500 and 700 samples, 5 classes, 200 to 10,000 features, penalty exp(3),
200 validation samples, float64. Timed: the value of the validation loss and its derivative with respect to the log
penalty, from the cold start. `bl.Auto` runs once with a loss as any function of the features ("opaque") and once with
the Gram matrix stated by `bl.quadratic_form`; JAXopt likewise, each form compared with its best of the same form.
The error is relative to the derivative at a tolerance of 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.data.embedded import made
from bilevel.training.figures import style
from experiments.peers import common

PEERS = ("jaxopt",)
SIZES = [(samples, features) for features in (200, 1000, 3000, 10_000) for samples in (500, 700)]
SWEPT = (500, 200)  # the size at which every arm of the peer runs
USUAL = tuple(f"{form} {tol}, GMRES" for form in ("PG", "PG Gram") for tol in ("1e-02", "1e-03", "1e-04"))
CLASSES, VALIDATION, AT = 5, 200, 3.0
TOLERANCES = (1e-4, 3e-5, 1e-5, 1e-6)
ERROR = 1e-5  # ours
PEER_ERROR = 2.5e-4  # of order 1e-4


def data(samples: int, features: int) -> dict[str, Any]:
    found = made(samples + VALIDATION, features, CLASSES, max(3, features // 10), 0)
    inputs, answers = found.inputs / np.sqrt(features), np.eye(CLASSES)[found.targets]
    return {
        "train": inputs[:samples],
        "answers": answers[:samples],
        "validation": inputs[samples:],
        "targets": answers[samples:],
        "log_theta": np.float64(AT),
    }


def opaque(x: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    """theta/2 ||X'(Y - x)/theta||^2 + <x, Y>."""
    train, answers = batch[:2]
    return 0.5 * jnp.sum((train.T @ (answers - x)) ** 2) / jnp.exp(hparams) + jnp.vdot(x, answers)


def gram(x: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    """The same of K = X X'."""
    kernel, answers = batch[:2]
    return bl.quadratic_form(kernel, answers - x) / jnp.exp(hparams) + jnp.vdot(x, answers)


def scores(x: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    train, answers, validation, _ = batch
    return validation @ (train.T @ (answers - x)) / jnp.exp(hparams)


def scores_gram(x: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    _, answers, cross, _ = batch
    return cross @ (answers - x) / jnp.exp(hparams)


def task(arrays: dict[str, Any], form: str, tol: float) -> bl.Task:
    train, answers, validation, targets = (jnp.asarray(arrays[name]) for name in list(arrays)[:4])
    loss, predict, batch = opaque, scores, (train, answers, validation, targets)
    if form == "Gram":
        loss, predict, batch = gram, scores_gram, (train @ train.T, answers, validation @ train.T, targets)

    def outer_loss(x: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
        return 0.5 * jnp.sum((predict(x, hparams, batch) - batch[3]) ** 2) / VALIDATION

    return bl.Task(
        inner=bl.InnerProblem(
            loss=loss,
            init=lambda key, hparams: jnp.full(answers.shape, 1 / CLASSES),
            constraint=bl.Simplex(),
            solver=bl.Auto(tol=tol),
        ),
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.asarray(AT),
        batches=bl.full_batch(batch, batch),
    )


def hypergradient(task: bl.Task, tol: float) -> Callable[[], dict[str, Any]]:
    engine = bl.Implicit(linear_solve=bl.CG(tol=tol), accuracy="residual", on_failure="warn")

    def run() -> dict[str, Any]:
        value, gradient, report = bl.hypergradient(task, jnp.asarray(AT), engine)
        counts = report.counts
        return {
            "value": value,
            "gradient": gradient,
            "gradients": counts.gradients,
            "products": counts.hessian_products,
        }

    return run


def truth(arrays: dict[str, Any]) -> tuple[float, float]:
    """The derivative at a tolerance of 1e-12, and by how much central differences of the value differ from it."""
    exact = task(arrays, "Gram", 1e-12)
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-13), accuracy="residual", on_failure="warn")
    found = float(bl.hypergradient(exact, jnp.asarray(AT), engine)[1])
    low, high = (float(bl.hypergradient(exact, jnp.asarray(AT + reach), engine)[0]) for reach in (-1e-4, 1e-4))
    return found, abs((high - low) / 2e-4 / found - 1)


def size_rows(samples: int, features: int, settings: Any) -> Iterator[dict[str, Any]]:
    arrays = data(samples, features)
    exact, doubt = truth(arrays)
    print(f"{samples} x {features}: central differences agree with the reference to {doubt:.1e}", flush=True)
    ours = [
        common.own(f"bilevel: {form} {tol:.0e}", hypergradient(task(arrays, form, tol), tol))
        for form in ("opaque", "Gram")
        for tol in TOLERANCES
    ]
    only = () if (samples, features) == SWEPT and not settings.smoke else USUAL
    with common.served("svm", settings.peers, arrays, only) as theirs:
        found = common.in_turn([*ours, *theirs], 2 if settings.smoke else 5, patience=2.0)
    for timed in found.values():
        yield {
            "samples": samples,
            "features": features,
            "arm": timed.name,
            "seconds": timed.median,
            "cpu_seconds": timed.cpu_median,
            "compile_seconds": timed.compile_seconds,
            "error": common.relative_error(timed.result.get("gradient", np.nan), exact),
            "gradients": int(timed.result.get("gradients", -1)),
            "products": int(timed.result.get("products", -1)),
        }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each size the fastest arm of each kind that is accurate enough, and how many times faster ours are."""
    table = []
    for size in dict.fromkeys((row["samples"], row["features"]) for row in rows):
        here = [row for row in rows if (row["samples"], row["features"]) == size]

        def best(package: str, form: str, error: float, here: list = here) -> float:
            arms = [
                row for row in here if row["arm"].startswith(package) and ("Gram" in row["arm"]) == (form == "Gram")
            ]
            return min((row["seconds"] for row in arms if row["error"] <= error), default=float("nan"))

        line = {"samples": size[0], "features": size[1]}
        for form in ("opaque", "Gram"):
            own, peer = best("bilevel", form, ERROR), best("jaxopt", form, PEER_ERROR)
            line |= {form: own, f"jaxopt {form}": peer, f"{form}, times faster": peer / own}
        table.append(line | {"Gram over jaxopt opaque": line["jaxopt opaque"] / line["Gram"]})
    return table


@style()
def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    sizes = sorted({row["samples"] for row in rows})
    for axes, samples in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        table = [line for line in summary(rows) if line["samples"] == samples]
        for name, line in (("jaxopt opaque", "C1-s"), ("jaxopt Gram", "C1--s"), ("opaque", "C0-o"), ("Gram", "C0--o")):
            package = f"JAXopt (error {PEER_ERROR:g})" if "jaxopt" in name else f"bilevel (error {ERROR:g})"
            label = f"{package}, {name.split()[-1]}"
            axes.loglog([row["features"] for row in table], [row[name] for row in table], line, label=label)
        axes.set(xlabel="features", ylabel="seconds, value and hypergradient", title=f"{samples} samples")
        axes.legend(fontsize=7, handlelength=3.5)
    figure.savefig(picture, dpi=120)


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("svm", settings.out)
    rows: list[dict[str, Any]] = []
    for samples, features in [(60, 20)] if settings.smoke else SIZES:
        more = list(size_rows(samples, features, settings))
        rows += more
        common.show(more)
        common.show(summary(more))
        common.write(results, rows)
        draw(rows, picture)
    common.show(summary(rows))
    for form, least in (("opaque", 1.5), ("Gram", 3.0)):
        ratios = [line[f"{form}, times faster"] for line in summary(rows)]
        if settings.peers:
            met = min(ratios) >= least
            print(common.verdict(f"{form}: at least {least} times faster than JAXopt; {min(ratios):.3g} at least", met))


if __name__ == "__main__":
    main()
