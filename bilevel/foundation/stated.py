"""Errors of a user's own functions: which of them failed, in which file and line, and what it has to return."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.status import ConvergenceError
from bilevel.foundation.typing import PyTree

CONCRETE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
WITH_NUMPY = "it asks for the values of arrays that JAX traces, as NumPy does: write it with jax.numpy"
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
HERE = os.path.dirname(os.path.dirname(__file__))
ARGUMENTS = {
    "init": "(key, hparams)",
    "init_hparams": "(key)",
    "batches": "(key, step)",
    "evaluate": "(params, hparams)",
    "prior": "(hparams)",
    "feasible": "(hparams)",
}
TOLD = "told_by_bilevel"  # an attribute of errors that name their function already


@contextmanager
def telling(functions: Mapping[str, Callable[..., Any]], check: Callable[[], None]) -> Iterator[None]:
    """An error raised within names the user's function that it came from ("the inner loss", its name, file and line).

    ``functions`` are the user's functions by their roles. An error from elsewhere may still be caused by what one of
    them returned: then ``check`` finds that and raises a sentence. Costs nothing where nothing is raised.
    """
    try:
        yield
    except (ConvergenceError, StatementError):
        raise
    except Exception as error:
        if not getattr(error, TOLD, False) and not _tell(error, functions):
            check_again(functions, check, error)
        raise


Function = TypeVar("Function", bound=Callable[..., Any])


def tells(check: Callable[..., Any]) -> Callable[[Function], Function]:
    """For functions of what a user stated (their first argument, which has ``functions``): their errors say which of
    the user's functions they came from. ``check`` takes the same arguments, and is called after an error."""

    def decorate(function: Function) -> Function:
        name = next(iter(inspect.signature(function).parameters))

        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            stated = args[0] if args else kwargs.get(name)
            with telling(getattr(stated, "functions", {}), lambda: check(*args, **kwargs)):
                return function(*args, **kwargs)

        return told  # type: ignore[return-value]  # of the type that is wrapped

    return decorate


def check_again(functions: Mapping[str, Callable[..., Any]], check: Callable[[], None], error: Exception) -> None:
    """Runs ``check``, whose sentence, if it raises one, replaces ``error``."""
    try:
        check()
    except Exception as found:
        if not _tell(found, functions) and not isinstance(found, StatementError):
            return  # ``check`` met the same error again
        raise found from error


class StatementError(TypeError):
    """A user's function returns or takes something that it must not; the message is one sentence."""


def checked_scalar(name: str, function: Callable, *args: PyTree) -> None:
    """StatementError where the function does not take ``args`` or returns no real scalar; args may be shapes."""
    found = shapes_of(name, function, *args)
    leaves = jax.tree.leaves(found)
    if isinstance(found, tuple | list | dict) or len(leaves) != 1:
        what = f"a {type(found).__name__} of {len(found)}" if isinstance(found, tuple | list | dict) else "nothing"
        raise StatementError(
            f"The {name} {described(function)} returns {what}, and has to return one number: return the loss alone "
            "(what is to be recorded belongs into the task's evaluate)."
        )
    if leaves[0].shape:
        raise StatementError(
            f"The {name} {described(function)} returns an array of shape {leaves[0].shape}, and has to return one "
            "number: take its mean or sum (jnp.mean, jnp.sum)."
        )
    checked_real(name, function, leaves[0])


def checked_real(name: str, function: Callable, value: Any) -> Any:
    """The value; StatementError where it is an array of integers or complex numbers."""
    kind = getattr(value, "dtype", None)
    if kind is None or jnp.issubdtype(kind, jnp.floating):
        return value
    raise StatementError(
        f"The {name} {described(function)} returns a number of type {kind}, which has no derivative: "
        "return a real floating-point number."
    )


def checked_metrics(function: Callable, measured: Any, role: str = "evaluate") -> dict[str, Any]:
    """The metrics that a function returned, if they are a dict of numbers by name; else StatementError."""
    name = f"The {role} {described(function)}"
    if not isinstance(measured, Mapping):
        raise StatementError(
            f"{name} returns {_shape(measured)}, and has to return a dict of numbers by name: "
            'return {"accuracy": value}.'
        )
    for key, value in measured.items():
        if not isinstance(key, str):
            raise StatementError(f"{name} returns an entry named {key!r}, and names are strings: give it one.")
        if value is None or isinstance(value, str | bytes | list | tuple) or np.shape(value) != ():
            raise StatementError(
                f"{name} returns for {key!r} {_shape(value)}, and has to return one number for each name: take a mean, "
                "or give each entry a name of its own."
            )
    return dict(measured)


def checked_tree(name: str, function: Callable, tree: PyTree) -> PyTree:
    """The result of init or init_hparams. Raises StatementError where it is no tree of numbers."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise StatementError(f"The {name} {described(function)} returns nothing: return numbers, as jnp.zeros(3).")
    for leaf in leaves:
        if not hasattr(leaf, "dtype") and np.asarray(leaf).dtype.kind not in "biufc":
            raise StatementError(f"The {name} {described(function)} returns {_shape(leaf)} in the place of numbers.")
    return tree


def checked_baselines(function: Callable, found: Any) -> dict[str, Any]:
    """The result of baselines. Raises StatementError where it is no dict of values that JSON can hold."""
    name = f"The baselines {described(function)}"
    if not isinstance(found, Mapping):
        raise StatementError(f"{name} return {_shape(found)}, and have to return a dict: return {{}} for nothing.")
    for key, value in found.items():
        if any(np.asarray(leaf).dtype.kind not in "biufU" for leaf in jax.tree.leaves(value)):
            raise StatementError(f"{name} return for {key!r} {_shape(value)}: give numbers, text, or lists of them.")
    return dict(found)


def checked_batch(name: str, batch: PyTree) -> None:
    """StatementError for a leaf that no JAX program takes: strings and objects."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        kind = getattr(leaf, "dtype", np.asarray(leaf).dtype if isinstance(leaf, str | bytes) else None)
        if kind is not None and getattr(kind, "kind", "f") in "OUSMm":
            raise StatementError(
                f"{name}{jax.tree_util.keystr(path)} holds values of type {kind}: JAX computes with numbers only, so "
                "encode its columns as numbers (text by a code for each value, dates by days)."
            )


def shapes_of(name: str, function: Callable, *args: PyTree) -> PyTree:
    """The shapes of function(*args); StatementError where it takes another number of arguments."""
    check_arguments(name, function, len(args))
    return jax.eval_shape(function, *args)


def as_start(start: PyTree, cold: PyTree) -> PyTree:
    """A warm start in the types of the cold one; StatementError where its structure or its shapes are others."""
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (start, cold)]
    if jax.tree.structure(start) != jax.tree.structure(cold) or shapes[0] != shapes[1]:
        raise StatementError(
            f"The warm start (init=) has the shapes {_shapes(start)}, and init(key, hparams) gives {_shapes(cold)}: "
            "give params of the same structure and shapes."
        )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), start, cold)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(np.shape, tree)


def check_callable(functions: Mapping[str, Callable[..., Any]]) -> None:
    """StatementError for a value that is no function in the place of one."""
    for name, function in functions.items():
        if not callable(function):
            takes = ARGUMENTS.get(name, "(params, hparams, batch)")
            raise StatementError(f"The {name} is {_shape(function)}, and has to be a function of {takes}.")


def check_arguments(name: str, function: Callable, number: int) -> None:
    try:
        takes = inspect.signature(function)
    except (TypeError, ValueError):  # built in, or written in another language
        return
    try:
        takes.bind(*range(number))
    except TypeError as error:
        raise StatementError(
            f"The {name} {described(function)} takes {takes}, and is called as "
            f"{ARGUMENTS.get(name, '(params, hparams, batch)')}: give it those {number} arguments."
        ) from error


def described(function: Callable) -> str:
    """A function by its name, file and line: "loss (mine.py, line 12)"."""
    codes = codes_of(function)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name} ({_place(codes[0].co_filename, codes[0].co_firstlineno)})" if codes else name


def codes_of(function: Any, depth: int = 2) -> list[CodeType]:
    """The code of a function, through what wraps it, and of the functions in the fields of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None:
        return [code]
    if depth and dataclasses.is_dataclass(function) and not isinstance(function, type):
        parts = (getattr(function, one.name) for one in dataclasses.fields(function))
        return [code for part in parts if callable(part) for code in codes_of(part, depth - 1)]
    return []


def _tell(error: Exception, functions: Mapping[str, Callable[..., Any]]) -> bool:
    """Adds to the message of an error the function that it came from and where; False where it came from none of
    them."""
    owners = {code: (name, function) for name, function in functions.items() for code in codes_of(function)}
    owner, place = None, ""
    for code, line in _frames(error.__traceback__):
        if owner is None and code in owners:
            owner = owners[code]
        if owner is not None and (code in owners or not code.co_filename.startswith((*LIBRARIES, HERE))):
            place = _place(code.co_filename, line)
    if owner is None:
        return False
    name, function = owner
    message = str(error.args[0]) if error.args else ""
    if isinstance(error, CONCRETE):
        message = f"{WITH_NUMPY} ({message.splitlines()[0].rstrip('.')})."
    told = f"In the {name} {getattr(function, '__name__', type(function).__name__)} ({place}): {message}"
    if len(error.args) <= 1:
        error.args = (told.removesuffix(": "),)
    else:
        error.add_note(told)
    setattr(error, TOLD, True)
    return True


def _frames(traceback: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _place(file: str, line: int) -> str:
    short = os.path.relpath(file) if os.path.isabs(file) and file.startswith(os.getcwd()) else file
    return f"{short}, line {line}"


def _shape(value: Any) -> str:
    """A value in words, for a sentence; a list counts as a list, although NumPy gives it a shape."""
    if hasattr(value, "shape"):
        return f"an array of shape {np.shape(value)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
