"""Errors as sentences: what our own code says stays, what others raise gets its kind, all on one line."""

import jax
import numpy as np
import pytest
from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue

from bilevel.cli.choices import options as available
from bilevel.cli.sentences import nearest, sentence
from bilevel.foundation.status import ConvergenceError


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("tol=-1 is not\n positive."), "tol=-1 is not positive."),
        (ConvergenceError("The inner solve ended."), "The inner solve ended."),
        (
            FileNotFoundError(2, "No such file or directory", "x.npz"),
            "x.npz: it cannot be read or written (No such file or directory); correct the name or its permissions.",
        ),
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
        (
            caused(
                InstantiationException("Error in call to target 'm.f':\nX\nfull_key: optimizer"),
                TypeError("f() got an unexpected keyword argument 'lr'"),
            ),
            "optimizer takes no setting lr (did you mean optimizer.learning_rate=VALUE?); leave out optimizer.lr.",
        ),
        (
            caused(
                InstantiationException("Error in call to target 'm.f':\nX\nfull_key: task"),
                TypeError("called_by_f() got an unexpected keyword argument 'lr'"),
            ),
            "task: TypeError: called_by_f() got an unexpected keyword argument 'lr'",
        ),
        *(
            (
                ConfigCompositionException(told),
                "seed=1,2: several values are a sweep, which -m asks for: bilevel -m seed=1,2; one value that is a "
                "list is seed=[1,2].",
            )
            for told in (
                "Ambiguous value for argument 'seed=1,2'\n1. To use it as a list",
                "Sweep parameters 'seed=1,2' requires --multirun",
            )
        ),
    ],
)
def test_sentence(error, expected):
    assert sentence(error) == expected


def test_a_missing_value_is_named():
    error = MissingMandatoryValue("Missing mandatory value: task._target_")
    error.full_key = "task._target_"
    assert sentence(error) == "task._target_=VALUE is needed: it has no default."


def test_a_name_in_a_folder_of_its_group_is_told_as_it_is_typed():
    error = MissingConfigException("not found", missing_cfg_file="experiment/paper/precison", options=[])
    assert sentence(error) == (
        "experiment=paper/precison: there is no such experiment (did you mean paper/precision?); `bilevel command=list "
        f"experiment` shows all {len(available('experiment'))}."
    )
    far = sentence(MissingConfigException("not found", missing_cfg_file="experiment/qqq/zzz", options=[]))
    assert all(name in far for name in ("choose one of", "hpo/ijcnn1", "meta/sinusoid", "paper/precision"))
    assert sentence(MissingConfigException("", "hydra/launcher/nope", ["basic"])).startswith(
        "hydra/launcher=nope: there is no such hydra/launcher; choose one of basic"
    )


def test_nothing_near_is_no_guess():
    assert nearest("zebra", ["ridge", "lasso"]) == ""


def test_letters_in_another_order_are_nearest():
    assert nearest("adma", ["adamax", "adam", "sgd"]) == " (did you mean adam?)"


def test_only_what_a_function_would_read_may_be_added():
    """A typo elsewhere is not to be added by +, because nothing would read it."""
    told = lambda key: sentence(ConfigCompositionException(f"Could not override '{key}'."))
    assert "did you mean hydra.run.dir=VALUE?" in told("hydra.run.dirr") and "+" not in told("hydra.run.dirr")
    assert "+" not in told("zebra") and "+" not in told("trainer.zebra") and "+" not in told("tsk")
    assert "added by +task.my_alphabet=VALUE" in told("task.my_alphabet")


def test_the_beginning_of_a_name_is_near():
    assert nearest("cosin", ["linear", "cosine_decay"]) == " (did you mean cosine_decay?)"


def test_an_error_on_the_host_is_its_own_sentence():
    """JAX hands it on as an error of its own, whose text is a traceback."""

    def torn(x):
        raise OSError("x.npy ends at sample 31")

    with pytest.raises(Exception, match="Traceback") as caught:
        jax.block_until_ready(jax.pure_callback(torn, jax.ShapeDtypeStruct((), np.float32), np.float32(0)))
    assert sentence(caught.value) == "OSError: x.npy ends at sample 31"
