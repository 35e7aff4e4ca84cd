"""Words that are no settings, as people type them, and what was meant."""

import argparse

import pytest
from hydra._internal.utils import get_args_parser

from bilevel.cli.arguments import translate
from bilevel.cli.sentences import SettingsError
from bilevel.cli.words import FLAGS, SHORT, TAKES_VALUE, settings, similar

TYPED = {
    "ridge": "did you mean task=ridge?",
    "paper/precision": "did you mean experiment=paper/precision?",
    "adam": "did you mean optimizer=adam?",
    "doctor outputs": "did you mean command=doctor?",
    "resume outputs": "did you mean resume=DIR?",
    "help": "did you mean --help?",
    "--steps 5": "--steps: there is no such flag; .*did you mean trainer.steps=VALUE?",
    "--learning-rate=0.3": "did you mean optimizer.learning_rate=VALUE?",
    "--seed=1": "settings have no hyphens before them: seed=1.",
    "--optimizer.learning_rate=0.3": "settings have no hyphens before them: optimizer.learning_rate=0.3.",
    "--halp": "did you mean --help?",
    "hydra.launcher=joblib": "it is chosen by hydra/launcher=joblib, with a slash.",
    "something": "something: settings are given as NAME=VALUE, as in task=ridge trainer.steps=50.",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_word_without_a_name_is_refused_with_what_was_meant(typed):
    with pytest.raises(SettingsError, match=TYPED[typed].replace("?", r"\?")):
        translate(typed.split())


def test_an_agent_that_gives_hyphens_is_told_how_not_to(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    with pytest.raises(SettingsError, match=r"seed=1, as an agent of W&B gives them by \${args_no_hyphens} in"):
        translate(["--seed=1"])


def test_the_flags_are_those_of_hydra():
    options = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    assert set(options) == {*FLAGS, *TAKES_VALUE}
    flags = (argparse._StoreTrueAction, argparse._VersionAction)
    assert {name for name, action in options.items() if not isinstance(action, flags)} == set(TAKES_VALUE)


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info", "searchpath"], ["--multi"], ["-cd=here"], []])
def test_flags_of_hydra_pass(flags):
    assert translate([*flags, "task=ridge"]) == [*flags, "task=ridge"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *(("lr", "optimizer.learning_rate"), ("steps", "trainer.steps"), ("trainer.step", "trainer.steps")),
        *(("taks", "task"), ("optimiser", "optimizer"), ("outputs", "output"), ("trainer.stesp", "trainer.steps")),
        *(("task.lr", "task.learning_rate"), ("optimizer.rate", "optimizer.learning_rate")),
        *(("engine.linear_solver", "engine.linear_solve"), ("engine.acuracy", "engine.accuracy")),
    ],
)
def test_a_setting_of_another_name_is_guessed(key, meant):
    assert similar(key) == f" (did you mean {meant}=VALUE?)"
    assert meant in (*settings(), *SHORT, "engine.linear_solve")


@pytest.mark.parametrize("key", ["engine.tol", "engine.tolerance", "engine.inner_tol"])
def test_a_setting_of_another_engine_is_guessed_with_that_engine_and_with_the_solver(key):
    told = similar(key)
    assert told.startswith(" (did you mean engine.linear_solve.tol=VALUE, with engine=deq, engine=implicit_cg, ")
    assert told.endswith(" more; or solver.tol=VALUE, with solver=auto?)")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("engine.terms", "engine.linear_solve.terms=VALUE, with engine=neumann or engine.linear_solve=neumann?"),
        ("tol", "solver.tol=VALUE, with solver=auto?"),  # without it the solver is the task's own
        ("solver.tolerance", "solver.tol=VALUE, with solver=auto?"),
        ("solver.maxiter", "solver.max_steps=VALUE, with solver=auto?"),
        ("logger.mod", "logger.mode=VALUE, with logger=wandb?"),
        ("solver.memori", "solver.memory=VALUE, with solver=lbfgs, solver=anderson, "),
    ],
)
def test_a_setting_of_another_choice_is_guessed_with_it(key, meant):
    assert f"did you mean {meant}" in similar(key)
