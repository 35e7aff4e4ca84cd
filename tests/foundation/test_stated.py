"""Errors of a user's own functions say which function failed, and where, before anything is compiled."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.foundation.stated import StatementError, checked_baselines

X, Y = np.arange(60.0).reshape(20, 3) % 7, np.arange(20.0) % 3
HERE = r"test_stated\.py, line \d+"


def error(w, h, batch):
    return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)


def ridge(w, h, batch):
    return error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2)


def attribute(w, h, batch):
    return w.foo.sum()


def helper(w):
    return jnp.zeros(3) @ jnp.zeros((4, 1)) + w


def nested(w, h, batch):
    return jnp.sum(helper(w))


def vector(w, h, batch):
    return (batch[0] @ w - batch[1]) ** 2


def with_aux(w, h, batch):
    return error(w, h, batch), {"accuracy": 1.0}


def two_arguments(w, h):
    return jnp.sum(w)


def by_numpy(w, h, batch):
    return np.mean((np.asarray(batch[0]) @ np.asarray(w)) ** 2)


def counted(w, h, batch):
    return jnp.sum(w > 0)


LOSSES = [
    (attribute, AttributeError, rf"In the {{}} attribute \(.*{HERE}\): .*no attribute foo"),
    (nested, TypeError, rf"In the {{}} nested \(.*{HERE}\): .*contracting dimensions"),
    (vector, StatementError, rf"The {{}} vector \(.*{HERE}\) returns an array of shape \(20,\).*mean or sum"),
    (with_aux, StatementError, rf"The {{}} with_aux \(.*{HERE}\) returns a tuple of 2.*evaluate"),
    (two_arguments, StatementError, r"The {} two_arguments .* takes \(w, h\).*\(params, hparams, batch\)"),
    (by_numpy, TypeError, rf"In the {{}} by_numpy \(.*{HERE}\): .*write it with jax.numpy"),
    (counted, StatementError, r"The {} counted .* type int64, which has no derivative"),
]


def task_of(loss=ridge, init=lambda key, h: jnp.zeros(3), **stated):
    settings = {
        "outer_loss": error,
        "init_hparams": lambda key: jnp.array(0.0),
        "batches": bl.full_batch((X, Y), (X, Y)),
        **stated,
    }
    return bl.Task(inner=bl.InnerProblem(loss=loss, init=init), **settings)


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
    """What is wrong is found before the large program is compiled."""

    def refuse(*_):
        raise AssertionError("a program was lowered")

    monkeypatch.setattr("bilevel.foundation.compilation.compile_or_find", refuse)


@pytest.mark.parametrize(("loss", "kind", "sentence"), LOSSES, ids=lambda one: getattr(one, "__name__", ""))
def test_an_inner_loss(loss, kind, sentence):
    task = task_of(loss=loss)
    with pytest.raises(kind, match=sentence.format("inner loss")):
        task.inner.solve(jnp.array(0.0), (jnp.asarray(X), jnp.asarray(Y)))


@pytest.mark.parametrize(("loss", "kind", "sentence"), LOSSES, ids=lambda one: getattr(one, "__name__", ""))
def test_an_outer_loss(loss, kind, sentence, monkeypatch):
    monkeypatch.undo()  # the small program of the start is compiled before
    with pytest.raises(kind, match=sentence.format("outer loss")):
        bl.hypergradient(task_of(outer_loss=loss), jnp.array(0.0))


def test_the_line_is_that_of_the_innermost_function_of_the_user():
    with pytest.raises(TypeError) as raised:
        task_of(loss=nested).inner.solve(jnp.array(0.0), (jnp.asarray(X), jnp.asarray(Y)))
    line = int(re.findall(r"line (\d+)", str(raised.value))[0])
    assert line == helper.__code__.co_firstlineno + 1


TASKS = [
    ({"init": lambda key: jnp.zeros(3)}, StatementError, r"The init <lambda> .* takes \(key\).*\(key, hparams\)"),
    ({"init": lambda key, h: h["a"] * jnp.zeros(3)}, TypeError, rf"In the init <lambda> \(.*{HERE}\)"),
    ({"batches": lambda key: None}, StatementError, r"The batches <lambda> .* takes \(key\).*\(key, step\)"),
    ({"batches": lambda key, step: (1.0, 2.0, 3.0)}, StatementError, r"The batches .* return tuple.* a pair"),
    ({"batches": lambda key, step: 1 / 0}, ZeroDivisionError, rf"In the batches <lambda> \(.*{HERE}\)"),
    (
        {"batches": bl.full_batch((X.astype(object), Y), (X, Y))},
        StatementError,
        r"inner batch\[0\] holds values of type object.*encode its columns",
    ),
    (
        {"batches": bl.full_batch((X, Y), {"names": np.array(["a", "b"])})},
        StatementError,
        r"outer batch\['names'\] holds values of type <U1",
    ),
]


@pytest.mark.parametrize(("stated", "kind", "sentence"), TASKS, ids=range(len(TASKS)))
def test_the_other_functions_of_a_task(stated, kind, sentence):
    with pytest.raises(kind, match=sentence):
        bl.hypergradient(task_of(**stated), jnp.array(0.0))


EVALUATES = [
    (lambda params, hparams: [1.0], r"The evaluate <lambda> .* returns a list, .* a dict of numbers"),
    (lambda params, hparams: params, r"returns an array of shape \(3,\), .* a dict of numbers"),
    (lambda params, hparams: {"a": None}, r"returns for 'a' nothing, .* one number"),
    (lambda params, hparams: {"outer/loss": 1.0}, r"an entry named 'outer/loss', which the record has of its own"),
    (lambda params, hparams: {1: 2.0}, r"returns an entry named 1, and names are strings"),
    (lambda params, hparams: {"a": params}, r"returns for 'a' an array of shape \(3,\), .* one number"),
    (lambda params, hparams: {"a": "good"}, r"returns for 'a' a str, .* one number"),
    (lambda params: {}, r"The evaluate <lambda> .* takes \(params\).*\(params, hparams\)"),
]


@pytest.mark.parametrize(
    ("evaluate", "sentence"),
    EVALUATES,
    ids=["list", "bare", "nothing", "taken", "number", "vector", "text", "arguments"],
)
def test_what_is_measured(evaluate, sentence, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(StatementError, match=sentence):
        bl.Trainer(engine=bl.Implicit(accuracy="residual"), steps=1).fit(task_of(evaluate=evaluate))


@pytest.mark.slow
def test_a_failure_of_a_solve_is_left_as_it_is(monkeypatch):
    monkeypatch.undo()
    inner = bl.InnerProblem(loss=ridge, init=lambda key, h: jnp.zeros(3), solver=bl.GradientDescent(max_steps=1))
    task = bl.Task(
        inner=inner,
        outer_loss=error,
        init_hparams=lambda key: jnp.array(0.0),
        batches=bl.full_batch((X, Y), (X, Y)),
    )
    with pytest.raises(bl.ConvergenceError, match="^The inner solve ended with status max_steps"):
        bl.hypergradient(task, jnp.array(0.0))


@pytest.mark.slow
def test_narrow_params_in_a_direct_solve(monkeypatch):
    monkeypatch.undo()
    dtype = jnp.bfloat16
    scales = jnp.array([1.0, 2.0, 4.0], dtype)
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum(scales * (w - h) ** 2), init=lambda key, h: jnp.zeros(3, dtype)
        ),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.array(1.0, dtype),
        batches=bl.full_batch(0.0, 0.0),
    )
    _, grad, report = bl.hypergradient(task, jnp.array(1.0, dtype), bl.Implicit(linear_solve=bl.Dense()))
    assert report.status.ok and grad.dtype == dtype
    np.testing.assert_allclose(float(grad), 3.0, atol=float(report.error_estimate))
    jax.block_until_ready(grad)
    newton = task.inner.with_solver(bl.Newton())
    with pytest.raises(ValueError, match="bl.Newton factorises matrices, and there is none in bfloat16"):
        newton.solve(jnp.array(1.0, dtype), 0.0)


WRONG = [
    ({"outer_loss": 3.0}, r"The outer loss is a float, and has to be a function of \(params, hparams, batch\)"),
    ({"batches": None}, r"The batches is nothing, and has to be a function of \(key, step\)"),
    ({"inner": ridge}, r"inner is a function, and has to be a bl\.InnerProblem"),
    (
        {"inner": bl.InnerProblem(loss=ridge, init=(1, 2))},  # type: ignore[arg-type]  # the wrong type is the test
        r"The init is a tuple, .* \(key, hparams\)",
    ),
]


@pytest.mark.parametrize(("stated", "sentence"), WRONG, ids=lambda one: str(one)[:20])
def test_what_is_no_function_is_refused_where_it_is_stated(stated, sentence):
    with pytest.raises(StatementError, match=sentence):
        replace(task_of(), **stated)


@pytest.mark.parametrize("found", [[1.0], {"a": object()}, {"a": [1.0, None, {1}]}], ids=["list", "object", "set"])
def test_baselines_are_what_json_holds(found):
    with pytest.raises(StatementError, match="The baselines <lambda> .* return"):
        checked_baselines(lambda: found, found)


def test_baselines_of_numbers_text_and_lists():
    found = {"loss": jnp.array(1.0), "by_class": np.ones(3), "method": "grid", "nested": {"n": 3, "none": None}}
    assert checked_baselines(lambda: found, found) == found


STARTS = [
    ({"init_hparams": lambda key: {}}, r"The init_hparams <lambda> .* returns nothing: return numbers"),
    ({"init_hparams": lambda key: ["a"]}, r"The init_hparams <lambda> .* returns a str in the place of numbers"),
    ({"init": lambda key, h: None}, r"The init <lambda> .* returns nothing"),
    (
        {"feasible": lambda h: (h, h)},
        r"The feasible <lambda> .* the shapes \(\(\), \(\)\) for .* \(\)",
    ),
    ({"feasible": lambda h: jnp.ones(3) * h}, r"returns the shapes \(3,\) for hyperparameters of the shapes \(\)"),
]


@pytest.mark.parametrize(("stated", "sentence"), STARTS, ids=range(len(STARTS)))
def test_a_start_has_numbers_and_a_projection_keeps_shapes(stated, sentence):
    with pytest.raises(StatementError, match=sentence):
        bl.Trainer(steps=1).fit(task_of(**stated))


def test_figures_are_a_dict():
    with pytest.raises(StatementError, match="figures have to be a dict"):
        task_of(figures=[lambda result: None])
