"""Imports go one way, each outside package has one door, and ``import bilevel`` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bilevel"

# From the bottom to the top: a module imports from its own line and from the lines above it here.
LAYERS = (
    ("foundation",),
    ("losses", "linear_solve"),
    ("implicit",),
    ("kernels",),
    ("projections", "prox"),
    ("cones", "penalties"),
    ("constraints",),
    ("optimality",),
    ("solvers",),
    ("streams",),
    ("batches", "data", "loggers"),
    ("problem",),
    ("layers", "task", "networks"),
    ("engines",),
    ("training",),
    ("verification",),
    ("report",),
    ("tasks", "experiments", "sklearn", "compat"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

DOORS = {
    "wandb": ("loggers",),
    "rich": ("loggers",),
    "hydra": ("cli",),
    "omegaconf": ("cli",),
    "sklearn": ("data", "solvers", "sklearn"),
    "flax": ("networks", "tasks"),
    "orbax": ("training",),
    "matplotlib": ("training", "loggers", "tasks"),
    "lineax": (),  # a witness in tests
    "optimistix": ("solvers",),
    "clarabel": ("solvers",),
    "cvxpy": ("layers",),
    "mlxtend": ("data",),
}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imports(tree: ast.AST, module: str) -> list[str]:
    """The modules that a file imports anywhere, those for type checkers alone included."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: write the full name"
            assert node.module is not None
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        found += imports(node, module)
    return found


GRAPH = {module_of(path): imports(ast.parse(path.read_text()), module_of(path)) for path in PACKAGE.rglob("*.py")}
INNER = {module: imported for module, imported in GRAPH.items() if module != "bilevel"}


def first_name(module: str) -> str:
    """bilevel.solvers.auto -> solvers"""
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(INNER))
def test_imports_go_one_way(module):
    assert first_name(module) in RANK, f"{module} has no place in LAYERS yet: give it one"
    for imported in INNER[module]:
        if imported.split(".")[0] == "bilevel":
            assert imported != "bilevel", f"{module}: import from the modules, not from bilevel"
            below, above = first_name(imported), first_name(module)
            assert RANK[below] <= RANK[above], f"{module} imports {imported}, which stands above it"


def test_imports_have_no_cycle():
    edges = {
        module: {name for name in map(existing, imported) if name and name != module}
        for module, imported in INNER.items()
    }
    done: set[str] = set()
    while len(done) < len(edges):
        ready = {module for module, needs in edges.items() if module not in done and needs - {"bilevel"} <= done}
        assert ready, f"these modules import each other in a circle: {sorted(set(edges) - done)}"
        done |= ready


def existing(imported: str) -> str | None:
    """The module that holds an imported name, as bilevel.task for bilevel.task.Task; None outside of bilevel."""
    while imported and imported not in GRAPH:
        imported = imported.rpartition(".")[0]
    return imported or None


@pytest.mark.parametrize("package", DOORS)
def test_each_outside_package_has_one_door(package):
    for module, imported in INNER.items():
        if any(name.split(".")[0] == package for name in imported):
            assert first_name(module) in DOORS[package], f"{module} imports {package}: its door is {DOORS[package]}"


def test_import_bilevel_is_light():
    heavy = ("jax", "wandb", "hydra", "omegaconf", "sklearn", "matplotlib", "orbax", "flax", "numpy", "rich")
    code = f"import sys, bilevel; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["Trainer", "hypergradient"])
def test_the_library_loads_neither_hydra_nor_wandb_nor_scikit_learn(name):
    heavy = ("wandb", "hydra", "omegaconf", "sklearn", "matplotlib", "flax", "orbax")
    code = f"import sys, bilevel; bilevel.{name}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_line_answers_without_jax():
    code = "import sys, bilevel.cli; print([name for name in ('jax', 'numpy', 'wandb') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import bilevel

    assert [name for name in dir(bilevel) if getattr(bilevel, name, None) is None] == []
