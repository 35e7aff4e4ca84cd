"""Everything that a release has to be, checked; then the files of it, built.

    python scripts/release.py --dry-run      checks, builds into a temporary folder, says what a release would do
    python scripts/release.py                the same into dist/, and tags the commit; publishing is left to a person

A release has one version: that of ``bilevel.__version__``, CITATION.cff and the newest section of CHANGELOG.md. Its
tree is clean, and its wheel holds the settings, the types, the licence, and nothing beside the package.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def said(path: str, pattern: str) -> str:
    """The first match in a file of the repository; empty where there is none."""
    found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    return found[1] if found else ""


def versions() -> dict[str, str]:
    """{file: the version that it states}."""
    return {
        "bilevel/__init__.py": said("bilevel/__init__.py", r'^__version__ = "(.+)"$'),
        "CITATION.cff": said("CITATION.cff", r"^version: (.+)$"),
        "CHANGELOG.md": said("CHANGELOG.md", r"^## (\S+)"),
    }


def output(*command: str) -> str:
    """What the command prints; its errors end the script."""
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def faults_of_tree() -> list[str]:
    """What keeps the tree from being a release, in sentences."""
    told = versions()
    faults = []
    if len(set(told.values())) > 1:
        faults.append("Versions differ: " + ", ".join(f"{path} says {version}" for path, version in told.items()) + ".")
    if output("git", "status", "--porcelain"):
        faults.append("The tree has changes that are not committed: commit them, or put them away.")
    if f"v{told['bilevel/__init__.py']}" in output("git", "tag").split():
        faults.append(f"v{told['bilevel/__init__.py']} is tagged already: raise bilevel.__version__.")
    return faults


def faults_of_wheel(wheel: Path) -> list[str]:
    """What the wheel lacks or has too much, in sentences."""
    names = zipfile.ZipFile(wheel).namelist()
    needed = ["bilevel/py.typed", "bilevel/configs/config.yaml"]
    faults = [f"The wheel lacks {name}." for name in needed if name not in names]
    if not any(name.endswith("licenses/LICENSE") for name in names):
        faults.append("The wheel lacks its licence.")
    beside = {name.split("/")[0] for name in names if ".dist-info/" not in name} - {"bilevel"}
    return faults + [f"The wheel holds {name}, which is no part of the package." for name in sorted(beside)]


def built(folder: Path) -> tuple[Path, Path]:
    """(sdist, wheel), the wheel built from the sdist."""
    output(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def main() -> None:
    parser = argparse.ArgumentParser(description="Check and build a release.")
    parser.add_argument("--dry-run", action="store_true", help="check and build, tag nothing, keep nothing")
    dry = parser.parse_args().dry_run
    faults = faults_of_tree()
    if not faults:
        with tempfile.TemporaryDirectory() as folder:
            sdist, wheel = built(Path(folder) if dry else ROOT / "dist")
            print(f"built {sdist.name} ({sdist.stat().st_size:,} bytes), {wheel.name} ({wheel.stat().st_size:,} bytes)")
            faults = faults_of_wheel(wheel)
    if faults:
        sys.exit("\n".join(faults))
    tag = f"v{versions()['bilevel/__init__.py']}"
    if dry:
        print(f"would tag {tag} at {output('git', 'rev-parse', '--short', 'HEAD')}")
    else:
        output("git", "tag", "--annotate", tag, "--message", f"bilevel {tag[1:]}")
        print(f"tagged {tag}. Publish: git push origin {tag} && python -m twine upload dist/*")


if __name__ == "__main__":
    main()
