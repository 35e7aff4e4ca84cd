"""Compilation: once for a structure, and free of the data that functions close over."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import program as programs
from bilevel.program import Program


def test_a_second_call_traces_nothing():
    calls = []

    def function(x, settings):
        calls.append(1)
        return {"sum": jnp.sum(x) + settings["shift"]}

    program = Program(function)
    for shift in (1.0, 2.0):
        assert float(program(jnp.arange(3.0), {"shift": shift})["sum"]) == 3.0 + shift
    assert len(calls) == program.traces == 1
    program(jnp.arange(4.0), {"shift": 1.0})
    assert program.traces == 2
    assert min(program.seconds) > 0


def test_another_precision_is_another_program():
    program = Program(lambda x: x * 2)
    with jax.enable_x64(False):
        assert program(jnp.ones(2)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert program(jnp.ones(2)).dtype == jnp.float64
    assert program.traces == 2


def test_closed_over_data_are_arguments_of_the_program():
    data = np.random.default_rng(0).normal(size=(300, 300))
    program = Program(lambda x: data @ x)
    x = jnp.ones(300)
    np.testing.assert_allclose(program(x), data @ np.ones(300), rtol=1e-12)
    (executable,) = program._executables.values()
    assert [constant.shape for constant in executable.constants] == [(300, 300)]
    assert executable.compiled.memory_analysis().generated_code_size_in_bytes < data.nbytes / 4
    assert executable.compiled.memory_analysis().argument_size_in_bytes >= data.nbytes


def test_programs_of_the_same_text_are_compiled_once():
    def of(data, host=False):
        value = lambda x: jax.pure_callback(lambda x: x * data.sum(), x, x) if host else jnp.tanh(x) * jnp.sum(data)  # noqa: E731
        program = Program(value)
        return float(program(1.0)), program.compilations

    first, second = np.arange(5.0), np.arange(5.0) + 1
    np.testing.assert_allclose([of(first)[0], of(second)[0]], np.tanh(1.0) * np.array([10.0, 15.0]), rtol=1e-12)
    assert of(first)[1] == of(second)[1] == 0
    assert [of(first, host=True), of(second, host=True)] == [(10.0, 1), (15.0, 1)]  # what is called is not in the text


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    """As those of JAX 0.10 in 0.11."""
    monkeypatch.setitem(programs.OPTIONS, "cpu", {"xla_cpu_of_another_version": True})
    programs.compiler_options.cache_clear()
    try:
        assert programs.compiler_options("cpu") == {}
        assert float(Program(lambda x: x + 1)(1.0)) == 2.0
    finally:
        programs.compiler_options.cache_clear()
