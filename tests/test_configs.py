"""Every file in configs/ composes, resolves and names a target that takes exactly the fields it gives."""

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

import bilevel as bl
from bilevel.cli.generated import register
from bilevel.task import no_baselines

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("data", "engine", "experiment", "logger", "optimizer", "solver", "task", "trainer")
CHOICES = [
    f"{group}={path.relative_to(CONFIGS / group).with_suffix('')}"
    for group in GROUPS
    for path in sorted((CONFIGS / group).rglob("*.yaml"))
]


def composed(*overrides: str) -> DictConfig:
    register(CONFIGS)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", [*overrides])


def targets(node: DictConfig, place: str = ""):
    """Each part of the settings that names a ``_target_``, with its place."""
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            here = f"{place}.{name}".lstrip(".")
            if not OmegaConf.is_missing(child, "_target_") and "_target_" in child:
                yield here, child
            yield from targets(child, here)


@pytest.mark.parametrize("choice", ["seed=0", *CHOICES])
def test_every_choice_composes_and_resolves(choice):
    config = composed(choice)
    OmegaConf.to_container(config, resolve=True)
    assert config.command == "train"


@pytest.mark.parametrize("choice", ["seed=0", *CHOICES])
def test_every_target_takes_the_fields_it_is_given(choice):
    given_later = {"trainer": ("optimizer", "engine", "loggers")}
    for place, node in targets(composed(choice)):
        parameters = inspect.signature(get_object(node._target_)).parameters
        fields = set(node) - {"_target_"}
        assert fields <= set(parameters), (
            f"{choice}: {place} gives {fields - set(parameters)}, unknown to {node._target_}"
        )
        needed = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
        needed -= set(given_later.get(place, ()))
        assert needed <= fields, f"{choice}: {place} lacks {needed - fields}"


@pytest.mark.parametrize(
    "choice", [choice for choice in CHOICES if choice.startswith("task=") and choice != "task=own"]
)
def test_a_task_file_gives_the_defaults_of_its_function(choice, monkeypatch):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    node = composed(choice).task
    for name, parameter in inspect.signature(get_object(node._target_)).parameters.items():
        assert node[name] == parameter.default, f"{choice}: {name} is {node[name]}, and {parameter.default} in Python"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_begins_with_the_command_that_uses_it(path):
    comments = [line for line in path.read_text().splitlines()[:3] if line.startswith("# ") and "@package" not in line]
    assert re.match(r"# bilevel( |$)", comments[0]), f"{path} begins with {comments[0]}"
    group = path.relative_to(CONFIGS).parts[0] if path.parent != CONFIGS else ""
    if group in GROUPS and path.stem != "default" and path.stem != "own":
        assert f"{group}={path.relative_to(CONFIGS / group).with_suffix('')}" in comments[0]


@pytest.mark.parametrize("choice", [one for one in CHOICES if one.startswith("task=") and one != "task=own"])
def test_a_shipped_task_says_what_its_result_stands_beside(choice, monkeypatch, request):
    """A headline with baselines in words of its own, and functions that measure them."""
    root = str(request.getfixturevalue("data_root")) if choice.startswith("task=meta_omniglot") else ""
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    task = instantiate(composed(choice, f"data.root={root}" if root else "seed=0").task)
    assert task.headline.against and all(words != "of the baseline" for words in task.headline.against.values())
    of_metrics = choice in ("task=few_shot_sinusoid", "task=meta_sinusoid")  # before and after adaptation
    assert of_metrics or task.baselines is not no_baselines


def test_no_name_is_a_boolean_of_yaml():
    for path in CONFIGS.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert not re.match(r"\s*(n|y|on|off|yes|no)\s*:", line, re.IGNORECASE), f"{path}: {line}"


def test_the_engine_names_of_the_documentation_are_there():
    for name in ("implicit", "implicit_cg", "implicit_gmres", "implicit_dense", "unrolled", "forward", "one_step"):
        assert f"engine={name}" in CHOICES


def test_a_step_size_may_be_a_law_on_the_command_line():
    node = composed("engine=soba", "engine.step_size={_target_:bilevel.PowerLaw,first:0.2,power:0.5}").engine
    assert instantiate(node).step_size == bl.PowerLaw(0.2, 0.5)
