"""The parts of an outer step, named in its compiled program, so that the time of each can be told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import jax

INNER, HYPERGRADIENT, ESTIMATE, EVALUATION = "inner solve", "adjoint solve", "error estimate", "evaluation"
PARTS = (INNER, HYPERGRADIENT, ESTIMATE, EVALUATION)
REST = "rest of the step"
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?(?:metadata=\{op_name=\"([^\"]*)\"|$)", re.MULTILINE)

Function = TypeVar("Function", bound=Callable)


class Part(Protocol):
    """What is both a context manager and a decorator."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> bool | None: ...
    def __call__(self, function: Function, /) -> Function: ...


def part(name: str) -> Part:
    """A block, or a decorated function, whose instructions belong to a part.

    The backward pass of an inner solve belongs to the adjoint, and the solves of an estimate to the estimate.

    >>> with part(INNER):
    ...     pass
    """
    return cast(Part, jax.named_scope(name))


def part_of(scopes: str) -> str:
    """The part of an instruction by the scopes that it was traced in, as the compiler keeps them; "" for none.

    >>> part_of("jit(run)/adjoint solve/inner solve/while"), part_of("jit(run)/transpose(jvp(inner solve))/while")
    ('inner solve', 'adjoint solve')
    """
    if ESTIMATE in scopes:
        return ESTIMATE
    before, inner, _ = scopes.partition(INNER)
    if inner:
        backward = any(word.startswith("transpose(") for word in before.split("/"))
        return HYPERGRADIENT if backward else INNER
    return next((name for name in (EVALUATION, HYPERGRADIENT) if name in scopes), "")


def parts_of(program: str) -> Mapping[str, str]:
    """The part of each instruction of a compiled program, by name; "" for those of none.

    >>> parts_of('  %while.3 = f32[] while(%tuple), metadata={op_name="jit(run)/evaluation/while"}')
    {'while.3': 'evaluation'}
    """
    return {name: part_of(scopes) for name, scopes in INSTRUCTION.findall(program)}
