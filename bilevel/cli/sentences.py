"""Every way to fail as one sentence that names cause and remedy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from bilevel.cli.choices import options as available
from bilevel.cli.words import similar

HOST = "error calling callback"  # in JAX's words for a function on the host that raised an error
READ = 8  # names that are read in a sentence where one of them was probably meant
WITH_TARGET = ("task", "engine", "optimizer", "solver", "logger")


class SettingsError(ValueError):
    """Settings that cannot be run; the message is one sentence with the remedy."""


class Told(Exception):
    """A failure of one run of a sweep, which was printed when it happened."""


def sentence(error: BaseException) -> str:
    """The line to print for an error."""
    while not str(error) and error.__cause__ is not None:
        error = error.__cause__
    if HOST in str(error):  # JAX's own error has the traceback of the function on the host as its text
        return one_line(str(error).rstrip().rpartition("\n")[2])
    for kind, phrase in PHRASES.items():
        if isinstance(error, kind):
            return one_line(phrase(error))
    if getattr(error, "told_by_bilevel", False):  # foundation.stated.TOLD, whose module loads jax
        return one_line(f"{type(error).__name__}: {str(error).rstrip('.')} (debug=true shows the traceback).")
    known = isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("bilevel")
    return one_line(str(error) if known and str(error) else f"{type(error).__name__}: {error}")


def missing_choice(error: BaseException) -> str:
    """Hydra names the missing file as group/option, and the option may lie in a folder of the group."""
    assert isinstance(error, MissingConfigException)
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return str(error)
    known = {name for name in error.options or () if not name.startswith("_")}
    first, _, folder = group.partition("/")
    if folder and first != "hydra":  # experiment=paper/precision: the folder belongs to the name
        group, option, known = first, f"{folder}/{option}", set()
    options = sorted((known | set(available(group))) - {"own", "default"})  # which need no name
    guess = nearest(option, options)
    choose = f"choose one of {', '.join(options)}" if options else f"`bilevel --help` lists what there is in {group}"
    if guess and len(options) > READ and first != "hydra":
        choose = f"`bilevel command=list {group}` shows all {len(options)}"
        return f"{group}={option}: there is no such {group}{guess}; {choose}."
    own = f"; one of your own, or of another package, is {group}._target_=MODULE.NAME" if group in WITH_TARGET else ""
    return f"{group}={option}: there is no such {group}{guess}; {choose}{own}."


def bad_override(error: BaseException) -> str:
    """An override of a missing setting: Hydra's error names the key, its cause the siblings."""
    if several := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^=']+)=([^']*)'", str(error)):
        key, values = several.groups()
        return (
            f"{key}={values}: several values are a sweep, which -m asks for: bilevel -m {key}={values}; one value that "
            f"is a list is {key}=[{values}]."
        )
    key = re.search(r"Could not override '([^']+)'", str(error))
    if key is None:
        return str(error)
    guess = similar(key[1])
    takes_more = key[1].partition(".")[0] in WITH_TARGET and not guess  # elsewhere nothing would read it
    own = f" (an argument of a function of your own is added by +{key[1]}=VALUE)" if takes_more else ""
    return (
        f"There is no setting {key[1]}{guess}: `bilevel --cfg job` prints all that there are with the chosen task and "
        f"engine{own}."
    )


def unreadable(error: BaseException) -> str:
    """An override that Hydra's grammar does not accept."""
    override = getattr(error, "override", None)
    return f"{override}: this is not of the form NAME=VALUE; values with special characters need quotes, NAME='VALUE'."


def failed_call(error: BaseException) -> str:
    """The error that a `_target_` raised, with its group."""
    cause = error.__cause__
    if kind := re.search(r"Expected a callable target, got .* of type '(\w+)'\s*full_key: (\S+)", str(error), re.S):
        return f"{kind[2]}._target_ names a {kind[1]}, and has to name a function or class in a module (MODULE.NAME)."
    place = re.search(r"full_key: (\S+)", str(error))
    where = f"{place[1]}: " if place else ""
    if cause is None or isinstance(cause, ImportError | AttributeError):
        target = re.search(r"Error (?:locating target|loading) '([^']+)'", str(error))
        if target:
            if installed := without(target[1]):
                return f"{where}{installed}"
            reason = f" ({type(origin(error)).__name__}: {origin(error)})" if cause else ""
            return (
                f"{where}there is no function {target[1]} to be imported{reason}; a module of your own must lie in the "
                "folder where bilevel is started, or on PYTHONPATH."
            )
    if isinstance(cause, InstantiationException):
        return failed_call(cause)
    called = re.search(r"call to target '([^']+)'", str(error))
    if isinstance(cause, TypeError) and called and place and (word := unexpected(cause, called[1])):
        return no_setting(place[1], word, called[1])
    if isinstance(cause, ValueError | OSError) or (cause and type(cause).__module__.startswith("bilevel.")):
        return sentence(cause)
    return f"{where}{type(cause).__name__}: {cause}" if cause else str(error)


def unexpected(error: TypeError, target: str) -> str:
    """The argument that a target was given and does not take; "" for other errors, and for errors of the functions that
    it calls.

    >>> unexpected(TypeError("Adam.__init__() got an unexpected keyword argument 'rate'"), "mine.Adam")
    'rate'
    """
    name = re.escape(target.rpartition(".")[2])
    found = re.match(rf"(?:\w+\.)*{name}(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
    return found[1] if found else ""


def no_setting(group: str, word: str, target: str = "") -> str:
    """The sentence for a setting that no target takes. A task's own arguments are the settings that were meant.

    >>> no_setting("task", "feature", "bilevel.tasks.lasso")
    'task takes no setting feature (did you mean noise_features?); leave out task.feature.'
    """
    guess = nearest(word, arguments(target)) if group == "task" else similar(f"{group}.{word}")
    return f"{group} takes no setting {word}{guess}; leave out {group}.{word}."


def arguments(target: str) -> list[str]:
    """The names of the arguments of a function in a module; [] where they are not known."""
    module, _, name = target.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def without(target: str) -> str:
    """The sentence for a name that an existing module lacks; "" where there is no such module.

    >>> without("math.sqroot")
    'math has no sqroot (did you mean sqrt?).'
    """
    module, _, name = target.rpartition(".")
    try:
        names = dir(importlib.import_module(module))
    except (ImportError, ValueError):
        return ""
    return "" if name in names else f"{module} has no {name}{nearest(name, names)}."


def origin(error: BaseException) -> BaseException:
    """The error at the root of a chain of errors."""
    return origin(error.__cause__) if error.__cause__ is not None else error


def missing_value(error: BaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"{key}=VALUE is needed: it has no default."


def unresolved(error: BaseException) -> str:
    """A value ``${...}`` that refers to a missing setting, with the setting that holds it."""
    key, reason = getattr(error, "full_key", None), str(error).splitlines()[0]
    reason = re.sub(r"^\w+ raised while resolving interpolation: \"?(.*?)\"?$", r"\1", reason)
    return f"{key}: {reason.rstrip('.')}." if key else reason


def no_folder_of_settings(error: BaseException) -> str:
    """A --config-dir that is not there."""
    place = re.search(r"config directory '([^']+)' not found", str(error))
    return f"--config-dir={place[1]}: there is no such folder of settings." if place else str(error)


def of_file(error: BaseException) -> str:
    """The operating system's refusal of a file or folder, without its number."""
    name, why = getattr(error, "filename", None), getattr(error, "strerror", None)
    if not name or not why:
        return str(error) or type(error).__name__
    return f"{name}: it cannot be read or written ({why}); correct the name or its permissions."


PHRASES = {
    SearchPathException: no_folder_of_settings,
    MissingConfigException: missing_choice,
    OverrideParseException: unreadable,
    ConfigCompositionException: bad_override,
    InstantiationException: failed_call,
    MissingMandatoryValue: missing_value,
    OmegaConfBaseException: unresolved,
    OSError: of_file,
}


def nearest(word: str, words: Iterable[str]) -> str:
    """A guess at the intended name: ", did you mean X?"; "" where no name is near.

    Letters in another order are nearest, because difflib finds "adamax" nearer to "adma" than "adam".

    >>> nearest("rigde", ["lasso", "ridge"])
    ' (did you mean ridge?)'
    """
    words = list(words)
    begun = [name for name in words if len(word) > 2 and name.startswith(word)]
    near = sorted(difflib.get_close_matches(word, words), key=lambda name: sorted(name) != sorted(word)) or begun
    return f" (did you mean {near[0]}?)" if near else ""


def one_line(text: str) -> str:
    """Text without line breaks.

    >>> one_line("a\\n  b\\n\\nc.")
    'a b c.'
    """
    return " ".join(text.split())
