"""Names and sizes of shipped tasks are refused before jax is loaded, as the code itself would refuse them."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf, open_dict

from bilevel.cli.choices import configs, options
from bilevel.cli.shipped import CHOICES, PRECISIONS, check_choices, check_data, check_shipped
from bilevel.data import DataError
from bilevel.task import PRECISIONS as TRUE_PRECISIONS

REFUSED = {
    "task=ridge task.train=1000": "The data set has 442 samples: train=1000, validation=100 and stop=0 leave none",
    "task=ridge task.train=0": "task.train=0: it must be at least 1.",
    "task=lasso data=digits": "digits has 10 classes, not numbers",
    "task=hyperclean data=diabetes": "diabetes has numbers, not classes",
    "task=hyperclean task.data=nope": "There is no data set 'nope'",
    "task=hyperclean task.train=5": "At most 5 of the 10 classes occur",
    "task=hyperclean task.fraction=1.5": "A fraction of 1.5",
    "task=hyperclean task.corruption=exact": "task.corruption=exact: choose one of exact_wrong",
    "task=hyperclean data=mnist data.root=.": "needs the file t10k-images-idx3-ubyte.gz, which is not in",
    "task=logistic task.precision=float16": "task.precision=float16: choose one of float32, float64",
    "task=distillation task.train=0.9 task.stop=0.2": "leave none for the test set",
    "task=distillation task.form=dual": "task.form=dual: choose one of primal, kernel",
    "task=svm task.classes=0": "task.classes=0: it must be at least 1.",
    "task=few_shot_sinusoid task.shots=-2": "task.shots=-2: it must be at least 1.",
    "task=meta_omniglot task.held_out=-1": "task.held_out=-1: it must be at least 1.",
    "task=meta_omniglot task.head=tree": "task.head=tree: choose one of ridge, svm.",
    "task=meta_omniglot_maml task.rates=some": "task.rates=some: choose one of each, layer, fixed.",
    "task=meta_omniglot_maml task.lanes=0": "task.lanes=0: it must be at least 1.",
    "task=meta_sinusoid task.adapt=tail": "task.adapt=tail: choose one of all, head.",
    "task=ridge engine.on_failure=shrug": "engine.on_failure=shrug: choose one of raise, warn, retry, skip.",
}

# Tasks whose own data set lies in the folder of published files.
PUBLISHED = {"meta_omniglot", "meta_omniglot_maml"}


def composed(*overrides):
    with initialize_config_dir(str(configs()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_is_refused(overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refusal:
        check_shipped(composed(*overrides.split()))
    assert REFUSED[overrides] in str(refusal.value)


@pytest.mark.parametrize("task", options("task"))
def test_the_settings_that_ship_are_accepted(task, request, monkeypatch):
    """They pass unchanged, and one wrong word among them does not."""
    if task in PUBLISHED:
        monkeypatch.setenv("BILEVEL_DATA", str(request.getfixturevalue("data_root")))
    config = composed(f"task={task}", "task._target_=mine.task") if task == "own" else composed(f"task={task}")
    before = OmegaConf.to_container(config, resolve=True)
    check_shipped(config)
    assert OmegaConf.to_container(config, resolve=True) == before
    with open_dict(config):
        config.engine.on_failure = "shrug"
    with pytest.raises(ValueError, match="engine.on_failure=shrug: choose one of"):
        check_shipped(config)


def test_jax_is_not_loaded_for_it_and_no_folder_is_left(folder, environment):
    (folder / "jax.py").write_text("raise RuntimeError('jax was loaded')")
    before = sorted(folder.iterdir())
    for overrides in ("task=ridge task.train=1000", "task.corruption=exact", "data=nope"):
        command = [sys.executable, "-m", "bilevel", *overrides.split()]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert "jax was loaded" not in line
        assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("target", "name"), [(target, name) for target, names in CHOICES.items() for name in names])
def test_the_words_are_those_of_the_code(target, name):
    with pytest.raises(ValueError) as refusal:
        get_method(target)(**{name: "nope"})
    for word in CHOICES[target][name]:
        assert word in str(refusal.value)
    assert tuple(TRUE_PRECISIONS) == PRECISIONS


@pytest.mark.slow
def test_every_engine_takes_the_policies():
    for name in options("engine"):
        config = composed(f"engine={name}")
        with open_dict(config):
            config.engine.on_failure = "shrug"
        with pytest.raises(ValueError, match="choose one of raise, warn, retry, skip"):
            check_choices("engine", config.engine)
        with pytest.raises(Exception, match="raise, warn, retry, skip"):
            instantiate(config.engine)


def test_a_task_of_ones_own_is_left_alone(folder):
    """Where the task comes from decides: the same settings of a shipped task are refused."""
    settings = ("task=own", "+task.train=0", "+task.precision=any")
    check_shipped(composed(*settings, "task._target_=mine.task"))
    for fault in ("task.precision=any: choose one of", "task.train=0: it must be at least 1"):
        with pytest.raises(ValueError, match=fault):
            check_shipped(composed(*settings, "task._target_=bilevel.tasks.ridge"))
        settings = settings[:-1]


def test_a_task_with_a_single_part_is_left_to_refuse_by_itself():
    """A contributor's task need not have a validation set of its own."""
    check_data("period", {"data": "digits", "root": "", "train": 100})
    with pytest.raises(DataError, match="leave none for the test set"):
        check_data("ridge", {"data": "diabetes", "root": "", "train": 400, "validation": 100})
