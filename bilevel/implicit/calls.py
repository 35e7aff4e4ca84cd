"""How the arguments of a decorated solver reach its optimality condition: by name where it has the name, else in
order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from bilevel.foundation.typing import Args, Kwargs

Arguments = tuple[Args, Kwargs]


def for_condition(solver: Callable, condition: Callable, named: str, args: Args, kwargs: Kwargs) -> Arguments:
    """The arguments of condition(params, *args, **kwargs) for the call solver(*args, **kwargs).

    The solver's first argument is where it starts, and may be given by its own name. A keyword, or a default of the
    solver, stays a keyword where the condition has an argument of that name; else all arguments take their places in
    the solver's signature. A condition that states another function's signature (`functools.wraps`) and takes no such
    keywords gets them in the order of that signature. Raises TypeError in a sentence where the signatures do not fit.
    ``named`` is what that sentence calls the condition.
    """
    signature, takes = _signature(solver), _signature(condition)
    if signature is None or not signature.parameters:
        return args[1:], kwargs
    first = next(iter(signature.parameters))
    given = args[1:], {name: value for name, value in kwargs.items() if args or name != first}
    if takes is None:
        return given
    name = getattr(solver, "__name__", "the solver")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}{signature} is called with other arguments: {error}.") from error
    for candidate in _candidates(given, bound, takes, first):
        if _fits(takes, *candidate):
            return _as_taken(condition, takes, *candidate)
    wanted = ", ".join(str(one) for one in list(takes.parameters.values())[1:])
    raise TypeError(
        f"{named} takes ({wanted}) beside the params, and {name} was called with {_described(*given)}: give both the "
        "same arguments, or close over what only one of them needs."
    )


def _candidates(
    given: Arguments, bound: inspect.BoundArguments, takes: inspect.Signature, first: str
) -> Iterator[Arguments]:
    """The calls to try: as given, with the defaults that the condition knows by name; as given; in the solver's order
    with all its defaults; then without the defaults, dropped one by one from the end."""
    known = {first, *bound.arguments}
    bound.apply_defaults()
    optional = [name for name in bound.arguments if name not in known]
    args, kwargs = given
    yield args, {**kwargs, **{name: bound.arguments[name] for name in optional if name in takes.parameters}}
    yield given
    while True:
        yield bound.args[1:], bound.kwargs
        if not optional:
            return
        del bound.arguments[optional.pop()]


def _signature(function: Callable) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # built in, or written in another language
        return None


def _fits(takes: inspect.Signature, args: Args, kwargs: Kwargs) -> bool:
    try:
        takes.bind(None, *args, **kwargs)
    except TypeError:
        return False
    return True


def _as_taken(condition: Callable, takes: inspect.Signature, args: Args, kwargs: Kwargs) -> Arguments:
    """The arguments as they are, or in the order of the stated signature where the function itself takes only that."""
    own = inspect.signature(condition, follow_wrapped=False)
    if _fits(own, args, kwargs):
        return args, kwargs
    placed = takes.bind(None, *args, **kwargs)
    return placed.args[1:], placed.kwargs


def _described(args: Args, kwargs: Kwargs) -> str:
    number = [f"{len(args)} positional argument{'s' if len(args) > 1 else ''}"] if args else []
    return " and ".join([*number, *([f"the keywords {', '.join(kwargs)}"] if kwargs else [])]) or "none"


def pair(result: Any, solver: Callable) -> tuple[Any, Any]:
    """(solution, aux) of a solver that is said to return aux. Raises TypeError where it returned no pair."""
    if isinstance(result, tuple) and len(result) == 2:
        return result
    name = getattr(solver, "__name__", "the solver")
    raise TypeError(
        f"{name} is decorated with has_aux=True and returned {type(result).__name__} where a pair (solution, aux) is "
        "asked for: return one, or leave out has_aux."
    )


def like(result: Args, *values: Any) -> Args:
    """The values as a tuple of the same kind: a NamedTuple stays one."""
    return type(result)(*values) if hasattr(result, "_fields") else values
