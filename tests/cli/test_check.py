"""``bilevel command=check``: right engines pass, a wrong derivative and a hidden error are found."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import bilevel as bl
from bilevel.cli.check import judged
from bilevel.foundation.typing import Counts
from bilevel.verification.oracle import Oracle

WRONG = """
import jax
import jax.numpy as jnp

import bilevel as bl


def hidden(*, seen: bool = False) -> bl.Task:
    weight = jnp.exp if seen else lambda hparams: jnp.exp(jax.lax.stop_gradient(hparams))
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda params, hparams, batch: 0.5 * (params - batch) ** 2 + 0.5 * weight(hparams) * params**2,
            init=lambda key, hparams: jnp.zeros(()),
        ),
        outer_loss=lambda params, hparams, batch: 0.5 * (params - batch) ** 2,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(4.0, 1.0),
    )
"""
IMPLICIT = ("implicit", "implicit_cg", "implicit_dense", "implicit_gmres", "implicit_minres")
SMOOTH = (*IMPLICIT, "auto", "forward", "unrolled")
STOCHASTIC = ("soba", "amigo", "ma_soba", "fsla")
RIGHT = {
    "ridge": (*SMOOTH, *STOCHASTIC, "closed_form"),
    "lasso": SMOOTH,
    "logistic": (*SMOOTH, *STOCHASTIC),
    "hyperclean": (*SMOOTH, *STOCHASTIC, "saba", "srba"),
    "distillation": (*SMOOTH, *STOCHASTIC),
    "few_shot_sinusoid": SMOOTH,
}


@pytest.mark.parametrize(
    ("tol", "estimate", "grade", "verdict"),
    [
        (1e-4, 5e-5, "residual", "loose"),  # what the tolerance of its own settings explains
        (1e-4, 1e-6, "residual", "WRONG"),
        (1e-10, 5e-5, "residual", "WRONG"),  # a tight solve explains no such error
        (1e-4, 5e-5, "estimate", "UNDER"),
        (1e-4, 2e-4, "estimate", "loose"),
    ],
)
def test_an_engine_is_judged_by_the_tolerance_that_it_states(tol, estimate, grade, verdict):
    status = SimpleNamespace(name="converged", ok=True)
    report: Any = SimpleNamespace(
        adjoint_tol=tol, error_estimate=estimate, error_grade=grade, status=status, counts=Counts().as_arrays()
    )
    task: Any = SimpleNamespace(precision="float64")
    engine: Any = SimpleNamespace(adapts=False)
    oracle: Any = SimpleNamespace(uncertainty=0.0, scale=1.0)
    assert judged("deq", task, engine, oracle, 1.3e-4, report, exact=True).verdict == verdict


def verdicts(text):
    """{engine: verdict} of the table; what is refused or left out counts as such."""
    lines = [line for line in text.splitlines() if re.match(r"[a-z0-9_]+  ", line)]
    found = {line.split()[0]: line.split()[-1] if ": " not in line else line.split()[1] for line in lines}
    refused = re.search(r"^not for this task \(engine=NAME says why\): (.*)$", text, re.MULTILINE)
    return {**found, **dict.fromkeys(refused[1].split(", ") if refused else [], "refused:")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seen", "verdict", "code"), [pytest.param("true", "right", 0, marks=pytest.mark.slow), ("false", "WRONG", 1)]
)
def test_a_hidden_dependence_is_found(bilevel, folder, seen, verdict, code):
    (folder / "wrong.py").write_text(WRONG)
    done = bilevel("command=check", "task._target_=wrong.hidden", f"task.seen={seen}", "engine=implicit")
    assert done.returncode == code, done.stderr
    title, _, line = done.stdout.splitlines()
    assert title.startswith("hidden: 1 unknown, 1 hyperparameter; ")
    assert title.endswith(" agree") if not code else re.search(r" DISAGREE by \S+: the differences count$", title)
    assert line.split()[0] == "implicit"
    assert line.split()[-1] == verdict
    assert done.stderr.startswith("bilevel: implicit disagree") if code else done.stderr == ""
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.02, "right"), (0.05, "doubtful"), (0.14, "WRONG"), (float("nan"), "WRONG")]
)
def test_an_error_that_the_uncertainty_of_the_differences_hides_is_doubtful(error, verdict):
    """In float32 3 % of the gradient, here 1, are allowed; the differences are uncertain by 0.01."""
    task = bl.tasks.ridge()
    report = bl.hypergradient(task, task.init_hparams(jax.random.key(0)), bl.Implicit(accuracy="residual"))[2]
    one = np.ones(1)
    oracle = Oracle(np.eye(1), one, 0.01, one, 0.01, False, 0.1, report.status, report.carry)
    assert (
        judged("one", replace(task, precision="float32"), bl.Implicit(), oracle, error, report, True).verdict == verdict
    )


@pytest.mark.slow
def test_the_instance_of_a_shipped_task_is_small(bilevel):
    done = bilevel("command=check", "task=ridge", "task.train=50", "engine=implicit_dense")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ridge: 10 unknowns, 10 hyperparameters; ")
    assert verdicts(done.stdout)["implicit_dense"] == "right"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", RIGHT)
def test_every_engine_on_every_task_that_ships(bilevel, task):
    """None is wrong or more wrong than it says, and those that can do the task are right."""
    done = bilevel("command=check", f"task={task}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout and "in doubt" not in done.stdout
    found = verdicts(done.stdout)
    assert {name: found.get(name) for name in RIGHT[task]} == dict.fromkeys(RIGHT[task], "right"), done.stdout
    assert "\nbiased: not exact by design" in done.stdout
    assert {"one_step", "truncated", "neumann", "nystrom", "f2sa", "stocbio"} <= set(found)
