"""The choices without a file: each names what there is, with fields that it takes, and the libraries have no more."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optax
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

import bilevel as bl
from bilevel.cli.choices import configs, options
from bilevel.cli.generated import PLACES, choices, names as names_of, register
from bilevel.data.catalogue import EITHER

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ENTRIES = [(part, name) for part in PLACES if part != "data" for name in choices(configs(), part)]


def test_every_target_takes_its_fields():
    for part, name in ENTRIES:
        node = choices(configs(), part)[name]["node"]
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        assert set(node) - {"_target_"} <= set(parameters), (part, name)


def made(part, name):
    """The object of a choice, with the settings of the run put in; None where the user has to give something."""
    node = choices(configs(), part)[name]["node"]
    known = {"${preferred.learning_rate}": 0.1, "${trainer.steps}": 10}
    node = {field: known.get(value, value) for field, value in node.items()}
    return None if "???" in node.values() else instantiate(OmegaConf.create(node), _convert_="all")


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *(("solver", bl.Solver), ("linear_solve", bl.LinearSolver), ("optimizer", optax.GradientTransformation)),
        ("schedule", Callable),
    ],
)
def test_every_name_makes_what_it_says(part, kind):
    names = choices(configs(), part)
    assert len(names) > 10
    for name in names:
        thing = made(part, name)
        assert isinstance(thing, kind) or (thing is None and part == "schedule"), name


def test_a_name_of_each_group_composes():
    register(configs())
    with initialize_config_dir(str(configs()), version_base="1.3"):
        words = ["optimizer=lion", "schedule=linear", "solver=fire", "+engine/linear_solve=minres"]
        config = compose("config", [*words, "optimizer.learning_rate.end_value=0.0"])
    assert config.optimizer._target_ == "optax.lion"
    assert config.optimizer.learning_rate.init_value == config.preferred.learning_rate
    assert (config.solver._target_, config.engine.linear_solve._target_) == ("bilevel.FIRE", "bilevel.MINRES")
    assert set(names_of(configs(), "optimizer")) <= set(options("optimizer"))


def test_every_data_set_is_a_choice_without_a_file():
    register(configs())
    assert set(names_of(configs(), "data")) == {*bl.data.SOURCES, *EITHER}
    assert [path.stem for path in (configs() / "data").iterdir()] == ["default"]
    with initialize_config_dir(str(configs()), version_base="1.3"):
        config = compose("config", ["task=logistic", "data=iris", "data.root=/somewhere"])
    assert (config.task.data, config.task.root) == ("iris", "/somewhere")


@pytest.mark.slow
def test_the_file_is_what_the_libraries_have():
    command = [sys.executable, "-W", "ignore", str(REPOSITORY / "scripts/choices.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run python scripts/choices.py"
