"""The folder of settings that ships with the library, and its choices."""

from __future__ import annotations

from pathlib import Path


def configs() -> Path:
    """The folder of settings: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def options(group: str) -> list[str]:
    """The names that GROUP=NAME accepts, with those in folders of the group.

    >>> "paper/precision" in options("experiment"), options("nothing")
    (True, [])
    """
    folder = configs() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
