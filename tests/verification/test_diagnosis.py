"""The diagnosis on recorded lines: each cause is told from what a run logs, and nothing is made up."""

import math

import numpy as np
import pytest

from bilevel.foundation.status import Code
from bilevel.verification import CAUSES, SOLVES, Record, diagnose, statuses

HEALTHY = {
    "outer/loss": 1.0,
    "outer/grad_norm": 1.0,
    "inner/residual": 1e-12,
    "inner/steps": 10,
    "inner/status": "converged",
    "adjoint/residual": 1e-12,
    "adjoint/steps": 5,
    "adjoint/status": "converged",
    "error_estimate": 1e-10,
    "engine/weakly_active": 0,
    "engine/theta": 1e-3,
}
CONFIG = {
    "task": {"precision": "float64", "stop": 0, "validation": 100},
    "optimizer": {"learning_rate": 0.1},
    "engine": {"linear_solve": {"max_steps": 1000}},
    "trainer": {"patience": 0},
    "solver": None,
}


def run(*changes, config=CONFIG, summary=None):
    """A record of one line for each change of the healthy one."""
    lines = [{"step": number, **HEALTHY, **change} for number, change in enumerate(changes)]
    return Record.of(lines, summary or {"status": "completed", "unknowns": 50}, config)


def causes(record):
    return [finding.cause for finding in diagnose(record)]


def falling(**held_out):
    """Outer losses that fall, beside the series given."""
    length = len(next(iter(held_out.values())))
    return [
        {"outer/loss": 1.0 / (1 + step), **{name.replace("_", "/"): values[step] for name, values in held_out.items()}}
        for step in range(length)
    ]


def test_a_healthy_run_has_no_findings():
    record = run(*falling(stop_loss=[1.0 / (1 + step) for step in range(12)]))
    assert diagnose(record) == []
    assert statuses(record) == [
        "inner solve: 12 of 12 converged (solved): nothing to do",
        "adjoint solve: 12 of 12 converged (solved): nothing to do",
    ]


def test_an_inner_problem_that_l_bfgs_finds_hard():
    summary = {"status": "completed", "unknowns": 123, "solver": "LBFGS"}
    hard = run(*[{"inner/steps": steps} for steps in (10, 600, 700)], summary=summary)
    (finding,) = diagnose(hard)
    assert finding.cause == "badly conditioned inner problem" and finding.overrides == ("solver=newton",)
    assert "took 600 steps in the median outer step, for 123 unknowns" in finding.evidence
    implicit = run({"inner/steps": 600}, config={**CONFIG, "engine": {"reuse": False}}, summary=summary)
    assert diagnose(implicit)[0].overrides == ("solver=newton", "engine.reuse=true")
    for change in ({"solver": "Newton"}, {"unknowns": 5000}, {"unknowns": 400}):
        assert not causes(run({"inner/steps": 600}, summary=summary | change))


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("code", Code)
def test_every_status_has_a_line_with_its_cure(solve, code):
    record = run({f"{solve}/status": code.name})
    (line,) = [line for line in statuses(record) if line.startswith(f"{solve} solve")]
    assert line.startswith(
        f"{solve} solve: 1 of 1 {code.name} ({CAUSES[solve, code].name}): {CAUSES[solve, code].cure}"
    )


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("code", [code for code in Code if code > Code.stalled])
def test_every_failure_is_a_finding(solve, code):
    finding = diagnose(run({}, {f"{solve}/status": code.name}))[0]
    assert finding.cause == CAUSES[solve, code].name
    assert f"of 1 of 2 outer steps ended with status {code.name}, the last at step 1" in finding.evidence


SETTINGS = {
    "solver": ({**CONFIG, "solver": {"max_steps": 50}}, ("solver.max_steps=500",)),
    "task": ({**CONFIG, "task": {"max_steps": 2000}}, ("task.max_steps=20000",)),
    "neither": (CONFIG, ("solver=auto", "solver.max_steps=100000")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_more_inner_steps_where_the_settings_have_them(name):
    config, overrides = SETTINGS[name]
    assert diagnose(run({"inner/status": "max_steps"}, config=config))[0].overrides == overrides


def test_steps_out_of_proportion_are_the_one_cause_of_what_fails_behind_them():
    record = Record(
        [
            {"step": 0, "inner/status": "converged", "adjoint/status": "converged", "outer/step_norm": 3.2e9},
            {"step": 1, "inner/status": "nonfinite", "adjoint/status": "nonfinite"},
        ],
        {"status": "failed"},
        {"optimizer": {"learning_rate": 1e9}},
    )
    (finding,) = diagnose(record)
    assert finding.cause == "outer steps out of proportion"
    assert "3.2e+09" in finding.evidence
    assert finding.overrides == ("optimizer.learning_rate=0.1",)


def test_a_stalled_adjoint_is_factored_if_it_is_small_and_preconditioned_else():
    failed = {"adjoint/status": "max_steps"}
    assert diagnose(run(failed))[0].overrides == ("engine=implicit_dense",)
    large = diagnose(run(failed, summary={"status": "completed", "unknowns": 100_000}))[0]
    assert large.overrides[:2] == ("engine=implicit_cg", "engine.linear_solve.max_steps=10000")


def test_the_step_that_ended_the_run_is_looked_at():
    failure = {"step": 1, **HEALTHY, "adjoint/status": "indefinite"}
    record = run({}, summary={"status": "failed", "failure": failure})
    assert causes(record) == ["indefinite Hessian"]
    assert diagnose(record)[0].overrides == ("engine=implicit_minres",)


def test_a_diverging_iteration_gets_a_tenth_of_its_step():
    fixed = {**CONFIG, "solver": {"step_size": 0.5}, "engine": {"adjoint_step": 0.2}}
    assert diagnose(run({"inner/status": "diverged"}, config=fixed))[0].overrides == ("solver.step_size=0.05",)
    assert diagnose(run({"adjoint/status": "diverged"}, config=fixed))[0].overrides == ("engine.adjoint_step=0.02",)
    assert diagnose(run({"adjoint/status": "diverged"}))[0].overrides == ("engine=implicit",)


def test_single_precision_is_too_coarse_where_it_shows_in_the_gradient():
    config = {**CONFIG, "task": {"precision": "float32"}}
    stalled = {"inner/status": "stalled", "error_estimate": 0.2}
    assert causes(run(stalled, config=config)) == ["float32 too coarse"]
    assert diagnose(run(stalled, config=config))[0].overrides == ("task.precision=float64",)
    assert causes(run({**stalled, "error_estimate": 1e-4}, config=config)) == []


def test_a_face_that_changes():
    loose = [{"engine/weakly_active": 3, "inner/residual": 1e-4}] * 4
    assert causes(run(*loose)) == ["face that keeps changing"]
    assert diagnose(run(*loose))[0].overrides == ("solver=auto", "solver.tol=1e-12")
    at_a_kink = [{"engine/weakly_active": 1}] * 4
    assert diagnose(run(*at_a_kink))[0].overrides == ("optimizer.learning_rate=0.01",)
    assert causes(run(*at_a_kink[:1], *[{}] * 9)) == []


def test_a_support_that_alternates():
    crossing = [{"inner/zeros_changed": 2, "outer/loss": 1.0 - 0.1 * (step % 2)} for step in range(8)]
    assert causes(run(*crossing)) == ["face that keeps changing"]
    assert "up to 2 coordinates became zero" in diagnose(run(*crossing))[0].evidence
    assert diagnose(run(*crossing))[0].overrides == ("optimizer.learning_rate=0.01",)
    learned = [{"inner/zeros_changed": 2, "outer/loss": 1.0 - 0.1 * step} for step in range(8)]
    assert causes(run(*learned)) == []
    assert causes(run(*({**line, "inner/zeros_changed": 0} for line in crossing))) == []


def test_tolerances_that_are_met_and_too_loose():
    config = {**CONFIG, "solver": {"tol": 1e-3}}
    finding = diagnose(run({"error_estimate": 0.3}, config=config))[0]
    assert finding.cause == "tolerances too loose"
    assert finding.overrides == ("solver.tol=1e-06",)
    assert "30%" in finding.evidence


def test_an_unknown_bias():
    biased = {"adjoint/status": "truncated", "error_estimate": math.inf}
    assert causes(run(biased, biased)) == ["bias of unknown size"]


def test_overfitting_of_the_validation_set():
    rising = [0.5, 0.4, 0.3, *(0.3 + 0.02 * step for step in range(1, 9))]
    finding = diagnose(run(*falling(stop_loss=rising)))[0]
    assert finding.cause == "validation overfitted"
    assert finding.overrides == ("task.stop=50", "trainer.patience=10")
    assert "lowest (0.3) at step 2" in finding.evidence
    assert causes(run(*falling(test_loss=rising))) == ["validation overfitted"]
    assert causes(run(*falling(stop_loss=rising[:5]))) == []  # too early to tell
    offered = {**CONFIG, "task": {"stop": 20, "validation": 100, "shrinkage": 0.0}}
    cure = diagnose(run(*falling(stop_loss=rising), config=offered))[0].overrides
    assert cure == ("trainer.patience=10", "task.shrinkage=3e-3")


def test_an_outer_loss_that_rises():
    record = run(*({"outer/loss": 1.0 + step} for step in range(4)))
    assert causes(record) == ["outer steps too long"]
    assert diagnose(record)[0].overrides == ("optimizer.learning_rate=0.01",)


@pytest.mark.parametrize("chosen_by", ["last", "stop/loss"])
def test_losses_of_minibatches_rise_by_more_than_their_noise(chosen_by):
    """The last batch was unlucky, which says nothing; all of the last quarter does."""
    noise = np.random.default_rng(0).normal(size=40)
    even = [{"outer/loss": 1.0 + 0.3 * one} for one in [*noise, 3.0]]
    climbing = [{"outer/loss": 1.0 + 0.1 * step + 0.3 * one} for step, one in enumerate(noise)]
    assert causes(run(*even, summary={"chosen_by": chosen_by})) == []
    assert causes(run(*even)) == ["outer steps too long"]  # if each were of the same batch
    assert causes(run(*climbing, summary={"chosen_by": chosen_by})) == ["outer steps too long"]
    assert causes(run(*climbing[:15], summary={"chosen_by": chosen_by})) == []  # too few to tell


def test_a_number_of_the_outer_level_that_is_none_is_told_and_nothing_else():
    broken = {"outer/loss": math.nan, "outer/grad_norm": math.nan, "outer/status": "nonfinite"}
    found = diagnose(run(*[broken] * 5))
    assert [finding.cause for finding in found] == ["outer level left the numbers"]
    assert "5 of 5 outer steps" in found[0].evidence and "prior" in found[0].cure


def test_a_gradient_of_zero_at_every_step_is_told():
    assert causes(run(*[{"outer/grad_norm": 0.0}] * 3)) == ["gradient that is exactly zero"]
    summary = {"status": "completed", "without_gradient": ["hparams['scale']"]}
    (finding,) = diagnose(run({}, {}, summary=summary))
    assert "hparams['scale'] was exactly 0 at every one of 2 outer steps" in finding.evidence
    assert causes(run({"outer/grad_norm": 0.0}, {})) == []


def test_shortened_steps_are_told():
    found = diagnose(run({}, {"outer/halvings": 2}, {}, summary={"status": "stopped_at_border"}))
    assert [finding.cause for finding in found] == ["steps out of the solvable region"]
    assert found[0].overrides == ("optimizer.learning_rate=0.01",)


def test_a_projection_that_undoes_the_steps_is_told():
    found = diagnose(run({}, {}, summary={"blocked": True, "projected_grad_norm": 19.5}))
    assert [finding.cause for finding in found] == ["projection undoes the optimiser's steps"]
    assert "19" in found[0].evidence or "20" in found[0].evidence
    assert found[0].overrides == ("optimizer=sgd",)


def test_a_hold_out_without_a_number_is_told():
    assert causes(run(*[{"stop/loss": math.nan}] * 3)) == ["second hold-out without a number"]
    assert causes(run({"stop/loss": math.nan}, {"stop/loss": 1.0})) == []
