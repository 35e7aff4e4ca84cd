"""Where the time of a run goes: the parts add up to the whole, and an instruction belongs to the part it stands in."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest

import bilevel as bl
from bilevel.foundation.parts import ESTIMATE, EVALUATION, HYPERGRADIENT, INNER, PARTS, REST, part_of
from bilevel.training.clock import PREPARATION, RECORD, STEPS, Clock, Sample, divide, seconds_of

MS = 1e6  # nanoseconds


def event(name, start, length):
    return SimpleNamespace(name=name, start_ns=start * MS, duration_ns=length * MS)


def profile(*threads):
    return SimpleNamespace(planes=[SimpleNamespace(lines=[SimpleNamespace(events=events) for events in threads])])


def test_an_event_has_its_time_without_the_events_within_it():
    """A loop of the inner solve with an instruction of no part and one of the estimate in it, and another thread."""
    parts = {"while.1": INNER, "dot.2": "", "dot.3": ESTIMATE, "add.4": ""}
    first = [event("while.1", 0, 10), event("dot.2", 1, 3), event("dot.3", 5, 2), event("python", 0, 50)]
    second = [event("add.4", 2, 4)]
    found = seconds_of(profile(first, second), parts)
    assert found == pytest.approx({INNER: 0.008, ESTIMATE: 0.002, REST: 0.004})


@pytest.mark.parametrize(
    ("scopes", "part"),
    [
        ("jit(run)/adjoint solve/inner solve/while/body/transpose(jvp())/dot", INNER),
        ("jit(run)/adjoint solve/jvp(inner solve)/while", INNER),
        ("jit(run)/adjoint solve/transpose(adjoint solve)/jvp(inner solve)/while", HYPERGRADIENT),
        ("jit(run)/transpose(jvp(inner solve))/while", HYPERGRADIENT),
        ("jit(run)/adjoint solve/while", HYPERGRADIENT),
        ("jit(run)/adjoint solve/error estimate/inner solve/while", ESTIMATE),
        ("jit(run)/evaluation/reduce_sum", EVALUATION),
        ("jit(run)/add", ""),
    ],
)
def test_the_part_of_an_instruction(scopes, part):
    assert part_of(scopes) == part


def test_each_step_is_divided_as_the_last_sample_before_it():
    lines = [{"step": step, "seconds": 2.0, "seconds_compiling": 1.0} for step in range(4)]
    samples = [Sample(1, {INNER: 1.0}), Sample(3, {INNER: 1.0, HYPERGRADIENT: 1.0})]
    found = divide(lines, samples)
    assert found == pytest.approx({**dict.fromkeys((*PARTS, REST), 0.0), INNER: 3.5, HYPERGRADIENT: 0.5})


def task():
    inner = bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * jnp.sum(jnp.exp(h) * w**2),
        lambda key, h: jnp.zeros(7),
        solver=bl.GradientDescent(tol=1e-6),
    )
    outer = lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2)
    return bl.Task(
        inner, outer, lambda key: jnp.zeros(7), bl.full_batch(4.0, 1.0), evaluate=lambda w, h: {"test/loss": w.sum()}
    )


@pytest.fixture
def uncached():
    """Programs that the compiler keeps have the scopes of the code that they were first compiled from."""
    kept = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", kept)


@pytest.mark.parametrize("engine", [bl.Implicit(linear_solve=bl.CG()), bl.Unrolled(accuracy="estimate")])
def test_the_parts_of_a_profiled_run_add_up_to_it(tmp_path, engine, uncached):
    trainer = bl.Trainer(optimizer=optax.sgd(0.1), engine=engine, steps=3, profile=True)
    summary = trainer.fit(task(), key=jax.random.key(0), directory=tmp_path).summary
    parts = summary["seconds_by"]
    assert sum(parts.values()) == pytest.approx(summary["seconds_total"])
    assert {*PARTS, REST, PREPARATION, RECORD, "final solve", "baselines", "figures"} <= set(parts)
    assert summary["seconds_sampled"][-1] == 3 and summary["seconds_of_steps"] == [0, 3]  # the final solve
    assert all(parts[name] > 0 for name in PARTS)


def test_a_run_that_is_too_short_for_a_trace_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "seconds", 0.0)
    summary = bl.Trainer(optimizer=optax.sgd(0.1), steps=2).fit(task(), directory=tmp_path).summary
    assert summary["seconds_sampled"] == [] and STEPS in summary["seconds_by"]
    assert sum(summary["seconds_by"].values()) == pytest.approx(summary["seconds_total"])


@pytest.mark.slow
def test_a_run_within_somebody_elses_trace_is_not_traced(tmp_path):
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of Python, of which a compilation makes a million
    with jax.profiler.trace(tmp_path / "theirs", profiler_options=options):
        trainer = bl.Trainer(optimizer=optax.sgd(0.1), steps=2, profile=True)
        summary = trainer.fit(task(), directory=tmp_path / "run").summary
    assert summary["seconds_sampled"] == [] and list((tmp_path / "theirs").rglob("*.xplane.pb"))


def test_no_more_is_traced_than_a_share_of_the_run_affords(monkeypatch):
    clock = Clock(lambda: 0.0)
    line = {"seconds": 0.1}
    for elapsed, affords in ((10.0, False), (100.0, True)):
        monkeypatch.setattr(Clock, "seconds", elapsed)
        assert clock._affords(line["seconds"], 0.015) == affords
    clock.cost = 1.0
    assert not clock._affords(line["seconds"], 0.015)
