"""The problems of sif2jax by name, each read when it is asked for.

``import sif2jax`` makes all of its 850 problems, a minute of work and more. Here the lists are read from its source,
and its packages are entered without their ``__init__``.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

HOMES = {
    "none": "_unconstrained_minimisation",
    "bounded": "_bounded_minimisation",
    "constrained": "_constrained_minimisation",
    "equations": "_nonlinear_equations",
}
PACKAGE = "sif2jax"


@functools.cache
def folder() -> Path | None:
    """Where sif2jax is installed, if it is; looked for once, before `problem` enters its packages."""
    found = importlib.util.find_spec(PACKAGE)
    return None if found is None or not found.submodule_search_locations else Path(found.submodule_search_locations[0])


def listed(kind: str) -> dict[str, str]:
    """{name: module} of a kind, in the order of the collection's own list."""
    root = folder()
    assert root is not None, "sif2jax is not installed"
    tree = ast.parse((root / "cutest" / HOMES[kind] / "__init__.py").read_text())
    homes = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)]
    calls = [call for values in lists for call in values.elts if isinstance(call, ast.Call) and not call.args]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name) and not call.keywords]
    return {name: homes[name] for name in names if name in homes}


def problem(kind: str, name: str) -> Any:
    """A problem, in the version that its class makes without arguments."""
    root = folder()
    assert root is not None, "sif2jax is not installed"
    at = {PACKAGE: root, f"{PACKAGE}.cutest": root / "cutest", home(kind): root / "cutest" / HOMES[kind]}
    for package, path in at.items():
        if package not in sys.modules:
            stub = types.ModuleType(package)
            stub.__path__ = [str(path)]
            sys.modules[package] = stub
    return getattr(importlib.import_module(f"{home(kind)}.{listed(kind)[name]}"), name)()


def home(kind: str) -> str:
    return f"{PACKAGE}.cutest.{HOMES[kind]}"
