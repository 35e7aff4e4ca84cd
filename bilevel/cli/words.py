"""Guesses at the meaning of a word that is no setting: a flag, a setting without its group, a value without a name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from bilevel.cli.choices import configs, options
from bilevel.cli.generated import PLACES, choices

FLAGS = (  # the flags of Hydra's parser; a test compares them
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
)
TAKES_VALUE = (
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c"),
    *("--info", "-i", "--experimental-rerun"),
)
FOLDERS = ("resume", "fork")  # settings that name the folder of a run
SHORT = ("task", "engine", "solver", "optimizer", "schedule", "logger", "experiment", "data", "command", "output")
HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir", "hydra.verbose", "hydra/launcher")
NEAR = 0.7  # likeness of two names that may be one
SOME = 4  # so many choices are named in a sentence
OTHER_WORDS = {  # of other libraries, for settings of ours
    **{"lr": "learning_rate", "rate": "learning_rate", "stepsize": "step_size"},
    **{"epochs": "steps", "iterations": "steps", "maxiter": "max_steps", "max_iter": "max_steps"},
    **{"tolerance": "tol", "inner_tol": "tol", "adjoint_tol": "tol"},
}
OTHER_SOLVE = {"engine": "solver"}  # what an engine lacks may have been meant of the inner solver
GENERATED = ("optimizer", "solver", "linear_solve")
CHOSEN = ("engine=implicit", "optimizer=adam")  # where nothing is chosen; the solver is then the task's own
DEFAULT_SOLVER = "solver=auto"
CHOICES = ("engine", "solver", "optimizer", "logger")  # groups whose options have settings of their own
ORDER = ("trainer", "optimizer", "solver", "engine", "task", "data", "logger")  # where a bare name is looked up first


def meant(word: str, commands: Collection[str]) -> str:
    """A guess at the setting whose value a word without a name is.

    >>> meant("ridge", ["train"]), meant("doctor", ["train", "doctor"]), meant("xyz", [])
    (' (did you mean task=ridge?)', ' (did you mean command=doctor?)', ', as in task=ridge trainer.steps=50')
    """
    if word == "help":
        return " (did you mean --help?)"
    if word in commands:
        return f" (did you mean command={word}?)"
    if word in FOLDERS:
        return f" (did you mean {word}=DIR?)"
    for group in ("task", "experiment", *ORDER):
        if word in options(group):
            return f" (did you mean {group}={word}?)"
    return ", as in task=ridge trainer.steps=50"


def similar(key: str) -> str:
    """A guess at which setting was meant.

    >>> similar("lr"), similar("trainer.step"), similar("xyz")
    (' (did you mean optimizer.learning_rate=VALUE?)', ' (did you mean trainer.steps=VALUE?)', '')
    >>> similar("optimiser"), similar("outputs")
    (' (did you mean optimizer=VALUE?)', ' (did you mean output=VALUE?)')
    >>> similar("task.penalties"), similar("schedule.decay_steps")[:56]
    (' (it is a setting of task=logistic: choose that too)', ' (did you mean optimizer.learning_rate.decay_steps=VALUE')
    """
    if key.startswith("schedule."):  # Hydra puts a schedule where the optimiser takes it
        key = f"optimizer.learning_rate.{key.removeprefix('schedule.')}"
        if owners := holders(key):
            return f" (did you mean {key}=VALUE, with {owners[0]}?)"
    if owners := holders(key):
        left = f" and {len(owners) - SOME} more" if len(owners) > SOME else ""
        which = "that" if len(owners) == 1 else "one of them"
        return f" (it is a setting of {', '.join(owners[:SOME])}{left}: choose {which} too)"
    first, second = _nearest(key)
    if not first:
        return ""
    other = f"; or {second}=VALUE{_with(second)}" if second else ""
    return f" (did you mean {first}=VALUE{_with(first)}{other}?)"


def _nearest(key: str) -> tuple[str, str]:
    """The setting that was probably meant; and one of the same name in another group, where that has it at once."""
    group, _, typed = key.rpartition(".")
    names, first = [*settings(), *generated(), "engine.linear_solve"], group.partition(".")[0]
    last = OTHER_WORDS.get(typed, typed.replace("-", "_"))
    own = [name for name in names if first and name.startswith(f"{first}.")]
    known = {_last(name) for name in own}
    if last not in {_last(name) for name in names}:
        last = next(iter(difflib.get_close_matches(last, sorted(known), n=1, cutoff=NEAR)), last)
    same = [name for name in names if _last(name) == last]
    same.sort(key=lambda name: (not name.startswith(group or name), name not in own, name.count("."), _rank(name)))
    if not same:
        return next(iter(difflib.get_close_matches(key, (*SHORT, *names, *HYDRA), n=1, cutoff=0.65)), ""), ""
    other = [name for name in same if name.startswith(f"{OTHER_SOLVE.get(first)}.") and same[0] in own]
    return same[0], next(iter(other), "") if _with(same[0]) else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _with(name: str) -> str:
    """The choices that a setting needs; "" where it is there without one."""
    owners = holders(name) if name.partition(".")[0] in CHOICES else []
    if not owners or set(CHOSEN) & set(owners):
        return ""
    owners = [DEFAULT_SOLVER] if DEFAULT_SOLVER in owners else owners
    shown = owners if len(owners) <= SOME else [*owners[: SOME - 1], f"{len(owners) - SOME + 1} more"]
    return f", with {', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else f", with {shown[0]}"


def is_setting(key: str) -> bool:
    """Whether a key is one of the settings, of a chosen option or of another one.

    >>> is_setting("seed"), is_setting("optimizer.learning_rate"), is_setting("task"), is_setting("sed")
    (True, True, True, False)
    """
    return key in (*SHORT, *settings()) or bool(holders(key))


def holders(key: str) -> list[str]:
    """The choices whose settings have this key, as GROUP=NAME.

    >>> holders("solver.memory")[:2], holders("engine.linear_solve.rank"), holders("solver.memori")
    (['solver=lbfgs', 'solver=anderson'], ['engine=nystrom', 'engine.linear_solve=nystrom'], [])
    """
    group, _, name = key.partition(".")
    found = []
    for path in sorted((configs() / group).glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {name, key} & set(_names(content)):  # by its whole name in a global package
            found.append(f"{group}={path.stem}")
    for part, (place, package) in PLACES.items():
        dotted = place.replace("/", ".")
        if part != "data" and key.startswith(f"{package or dotted}."):
            name, entries = key.removeprefix(f"{package or dotted}."), choices(configs(), part)
            found += [f"{dotted}={choice}" for choice, entry in entries.items() if name in _names(entry["node"])]
    return list(dict.fromkeys(found))


def _rank(name: str) -> int:
    group = name.partition(".")[0]
    return ORDER.index(group) if group in ORDER else len(ORDER)


def settings() -> list[str]:
    """The names of all settings in all files that ship, chosen or not."""
    found = set()
    for path in configs().rglob("*.yaml"):
        parts = path.relative_to(configs()).parts
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        prefix = "" if len(parts) == 1 or "# @package _global_" in text else f"{parts[0]}."
        if parts[0] != "hydra" and isinstance(content, dict):
            found |= {f"{prefix}{name}" for name in _names(content)}
    return sorted(name for name in found if not name.startswith(("defaults", "hydra.", "reduced.")))


def generated() -> list[str]:
    """The names of the settings of the choices that have no file of their own."""
    found: set[str] = set()
    for part in GENERATED:
        place, package = PLACES[part]
        for entry in choices(configs(), part).values():
            found |= {f"{package or place.replace('/', '.')}.{name}" for name in _names(entry["node"])}
    return sorted(name for name in found if not name.endswith("_target_"))


def _names(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
