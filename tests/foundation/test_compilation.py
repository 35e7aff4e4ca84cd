"""Compilation: once for a structure, and free of the data that functions close over."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.foundation import compilation as programs
from bilevel.foundation.compilation import Program, compile_or_find


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


def test_closed_over_data_are_arguments_of_the_program(monkeypatch):
    compiled = []

    def kept(*arguments):
        compiled.append(compile_or_find(*arguments)[0])
        return compiled[-1], True

    monkeypatch.setattr(programs, "compile_or_find", kept)
    data = np.random.default_rng(0).normal(size=(300, 300))
    program = Program(lambda x: data @ x)
    x = jnp.ones(300)
    np.testing.assert_allclose(program(x), data @ np.ones(300), rtol=1e-12)
    (sizes,) = [one.memory_analysis() for one in compiled]
    assert sizes.generated_code_size_in_bytes < data.nbytes / 4
    assert sizes.argument_size_in_bytes >= data.nbytes


def test_arguments_put_on_their_device_compile_nothing_again():
    program = Program(lambda x: x * 2)
    for x in (jnp.ones(4), np.ones(4), jax.device_put(jnp.ones(4), jax.devices()[0])):
        assert program(x).tolist() == [2.0] * 4
    assert program.traces == 1


SPREAD = """
import jax, jax.numpy as jnp
from bilevel.foundation.compilation import Program, compile_or_find
program, mesh = Program(lambda x: jnp.sum(x)), jax.sharding.Mesh(jax.devices(), ("x",))
spread = jax.device_put(jnp.ones(4), jax.NamedSharding(mesh, jax.P("x")))
other = jax.device_put(jnp.ones(4), jax.devices()[1])
found = [float(program(x)) for x in (jnp.ones(4), spread, other, jnp.ones(4), spread, other)]
print(found, program.traces)
"""


@pytest.mark.slow
def test_arguments_on_other_devices_are_another_program():
    """The compiled program refused them before."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SPREAD], env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == f"{[4.0] * 6} 3", run.stderr


def test_programs_of_the_same_text_are_compiled_once():
    def of(data, host=False):
        value = lambda x: jax.pure_callback(lambda x: x * data.sum(), x, x) if host else jnp.tanh(x) * jnp.sum(data)
        program = Program(value)
        return float(program(1.0)), program.compilations

    first, second = np.arange(5.0), np.arange(5.0) + 1
    np.testing.assert_allclose([of(first)[0], of(second)[0]], np.tanh(1.0) * np.array([10.0, 15.0]), rtol=1e-12)
    assert of(first)[1] == of(second)[1] == 0
    assert [of(first, host=True), of(second, host=True)] == [(10.0, 1), (15.0, 1)]  # what is called is not in the text


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    """As those of JAX 0.10 in 0.11."""
    known = {"xla_cpu_use_fusion_emitters": False}
    monkeypatch.setitem(programs.OPTIONS, "cpu", {"xla_cpu_of_another_version": True, **known})
    programs.compiler_options.cache_clear()
    try:
        assert programs.compiler_options("cpu") == known
        assert float(Program(lambda x: x + 1)(1.0)) == 2.0
    finally:
        programs.compiler_options.cache_clear()


def test_sums_in_single_precision_are_accurate():
    """Of positive numbers, whose errors do not cancel: along vectors, columns and rows, alone and in a lane."""

    def sums(x):
        table = x[: len(x) // 3 * 3].reshape(-1, 3)
        lanes = jax.vmap(lambda row: jnp.sum(row**2))(jnp.stack([x, 2 * x]))
        return jnp.sum(x), jnp.sum(table, axis=0), jnp.sum(table.T, axis=1), jnp.mean(jnp.log1p(jnp.exp(x))), lanes

    for size in (50, 650, 4095, 100_000):
        x = np.random.default_rng(size).uniform(size=size).astype(np.float32)
        exact = jax.tree.leaves(sums(jnp.asarray(x, jnp.float64)))
        for found, right in zip(jax.tree.leaves(Program(sums)(jnp.asarray(x))), exact, strict=True):
            assert found.dtype == np.float32
            assert_allclose(found, right, rtol=20 * float(np.finfo(np.float32).eps))
