"""Errors as sentences: what our own code says stays, what others raise gets its kind, all on one line."""

import pytest
from hydra.errors import InstantiationException
from omegaconf.errors import MissingMandatoryValue

from bilevel.cli.sentences import nearest, sentence
from bilevel.status import ConvergenceError


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("tol=-1 is not\n positive."), "tol=-1 is not positive."),
        (ConvergenceError("The inner solve ended."), "The inner solve ended."),
        (FileNotFoundError(2, "No such file or directory", "x.npz"), "[Errno 2] No such file or directory: 'x.npz'"),
        (ZeroDivisionError("one over zero"), "ZeroDivisionError: one over zero"),
        (caused(RuntimeError(), ValueError("the cause")), "the cause"),
        (ValueError(), "ValueError:"),
        (
            caused(InstantiationException("Error in call to target 'm.f':\nX\nfull_key: task"), ValueError("no root")),
            "no root",
        ),
        (
            caused(InstantiationException("Error in call to target 'm.f':\nX\nfull_key: task"), TypeError("no a")),
            "task: TypeError: no a",
        ),
    ],
)
def test_sentence(error, expected):
    assert sentence(error) == expected


def test_a_missing_value_is_named():
    error = MissingMandatoryValue("Missing mandatory value: task._target_")
    error.full_key = "task._target_"
    assert sentence(error) == "task._target_=VALUE is needed: it has no default."


def test_nothing_near_is_no_guess():
    assert nearest("zebra", ["ridge", "lasso"]) == ""
