"""The names of ``bilevel``: those that load at run time are those that a type checker sees, each with its type."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import bilevel

SOURCE = Path(bilevel.__file__).read_text()


def for_checkers():
    """{name: its home} of the imports under TYPE_CHECKING."""
    (block,) = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    found = [(alias.name, alias.asname, node.module) for node in imports for alias in node.names]
    assert all(name == exported for name, exported, _ in found), "written as `name as name`, which exports it"
    return {name: home for name, _, home in found}


def test_checkers_see_what_loads_at_run_time():
    at_run_time = {name: home for home, names in bilevel._HOME.items() for name in names}
    at_run_time |= dict.fromkeys(bilevel._MODULES, "bilevel")
    assert for_checkers() == at_run_time
    assert sorted(at_run_time) == bilevel.__all__ == dir(bilevel)


def test_every_name_loads_from_its_home():
    for name in bilevel.__all__:
        assert getattr(bilevel, name) is not None


def test_the_types_ship_in_the_package():
    assert importlib.util.find_spec("bilevel") is not None
    assert (Path(bilevel.__file__).parent / "py.typed").is_file()


def test_every_name_has_a_type(tmp_path):
    """No name is Unknown or Any to pyright."""
    lines = ["import bilevel as bl", *(f"reveal_type(bl.{name})" for name in bilevel.__all__)]
    (tmp_path / "names.py").write_text("\n".join(lines) + "\n")
    settings = {"include": ["names.py"], "extraPaths": [str(Path(bilevel.__file__).parents[1])]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout)
    said = {one["range"]["start"]["line"]: one["message"] for one in report["generalDiagnostics"]}
    assert sorted(said) == list(range(1, len(lines))), "each line is revealed once, and nothing else is said"
    for number, message in said.items():
        assert message.startswith("Type of"), message
        assert not message.endswith(('is "Any"', 'is "Unknown"')), lines[number]
