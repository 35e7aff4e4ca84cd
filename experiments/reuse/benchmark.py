"""Products of the adjoint solve with and without what the inner solver knows: bl.Implicit(reuse=True).

    python -m experiments.reuse.benchmark [--smoke]        # about 3 minutes

Logistic regression with one penalty a feature (exp of -12 to 0, at random) on the first 5,000 samples of each half of
ijcnn1 and a9a, a ridge regression of condition 1e6 (1,000 unknowns), and hyper-cleaning of digits. The inner solver is
L-BFGS with 10 or 40 pairs, at a tolerance of 1e-6, the adjoint solver CG at the same; Newton's method with the default
solver on a ridge regression of 200 unknowns. Cold starts. Processor seconds are of one evaluation, the smaller of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.tasks import hyperclean
from bilevel.training.figures import style
from experiments import common

COLUMNS = ("problem", "solver", "inner_steps", "reuse", "adjoint_steps", "products", "factorizations", "cpu_seconds")
PAIRS, TOL = (10, 40), 1e-6


def logistic(name: str) -> bl.Task:
    found = bl.data.load(name)
    inputs = found.inputs if isinstance(found.inputs, np.ndarray) else found.inputs.toarray()
    X, y = jnp.asarray(inputs, float), jnp.asarray(np.where(np.asarray(found.targets) > 0, 1.0, -1.0))
    half = len(y) // 2
    first, second = ((X[part], y[part]) for part in (slice(5000), slice(half, half + 5000)))

    def error(w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0.0, -batch[1] * (batch[0] @ w)))

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.sum(jnp.exp(h) * w**2),
            init=lambda key, h: jnp.zeros_like(h),
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.asarray(np.random.default_rng(0).uniform(-12, 0, X.shape[1])),
        batches=bl.full_batch(first, second),
    )


def ridge(unknowns: int) -> bl.Task:
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.standard_normal((2000, unknowns)) * np.logspace(0, -3, unknowns))
    y = jnp.asarray(rng.standard_normal(2000))

    def error(w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(unknowns),
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.asarray(-9.0),
        batches=bl.full_batch((X, y), (X, -y)),
    )


def cases(smoke: bool) -> Iterator[tuple[str, bl.Task, str, bl.solvers.Solver, bl.linear_solve.LinearSolver]]:
    makers: dict[str, Callable[[], bl.Task]] = {
        "ijcnn1": lambda: logistic("ijcnn1"),
        "a9a": lambda: logistic("a9a"),
        "ridge": lambda: ridge(1000),
        "hyperclean": hyperclean,
    }
    yield "ridge", ridge(200), "Newton", bl.Newton(), bl.AutoLinear()
    for name in ("hyperclean",) if smoke else makers:
        for pairs in PAIRS[-1:] if smoke else PAIRS:
            yield name, makers[name](), f"{pairs} pairs", bl.LBFGS(memory=pairs, tol=TOL), bl.CG(tol=TOL)


def main() -> None:
    settings = common.parser(__doc__, "two small problems").parse_args()
    jax.config.update("jax_enable_x64", True)
    out = common.folder(settings, Path(__file__).parent)
    common.write(out / "results.csv", COLUMNS, [])
    print(("{:>15}" * len(COLUMNS)).format(*COLUMNS))
    for name, task, label, solver, linear_solve in cases(settings.smoke):
        task = replace(task, inner=task.inner.with_solver(solver))
        for reuse in (False, True):
            row = [name, label, *measured(task, linear_solve, reuse)]
            common.append(out / "results.csv", row)
            print(("{:>15}" * len(row)).format(*row), flush=True)
    draw(out)


def measured(task: bl.Task, linear_solve: bl.linear_solve.LinearSolver, reuse: bool) -> list[object]:
    engine = bl.Implicit(linear_solve=linear_solve, accuracy="residual", reuse=reuse, on_failure="warn")
    hparams, seconds = task.init_hparams(jax.random.key(0)), []
    jax.block_until_ready(bl.hypergradient(task, hparams, engine)[1])
    for _ in range(2):
        began = time.process_time()
        _, grad, report = bl.hypergradient(task, hparams, engine)
        jax.block_until_ready(grad)
        seconds.append(time.process_time() - began)
    counts = (report.adjoint_steps, report.counts.hessian_products, report.counts.factorizations)
    return [int(report.inner_steps), reuse, *(int(number) for number in counts), f"{min(seconds):.3f}"]


@style()
def draw(out: Path) -> None:
    rows = common.read(out / "results.csv")
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    labels = list(dict.fromkeys(f"{row['problem']}\n{row['solver']}" for row in rows))
    for shift, reuse in ((-0.2, "False"), (0.2, "True")):
        products = [int(row["products"]) for row in rows if row["reuse"] == reuse]
        axes.bar(np.arange(len(products)) + shift, products, 0.4, label=f"reuse={reuse}")
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set(yscale="log", ylabel="products with the Hessian")
    axes.legend()
    figure.savefig(out / "reuse.png", dpi=120)


if __name__ == "__main__":
    main()
