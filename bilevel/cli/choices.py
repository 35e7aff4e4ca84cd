"""The folder of settings that ships with the library, and its choices."""

from __future__ import annotations

from pathlib import Path

from bilevel.cli.generated import names


def configs() -> Path:
    """The folder of settings: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def options(group: str) -> list[str]:
    """The names that GROUP=NAME accepts, with those in folders of the group and those that need no file.

    >>> "paper/precision" in options("experiment"), "lion" in options("optimizer"), options("nothing")
    (True, True, [])
    """
    return sorted({*files(group), *names(configs(), group)})


def files(group: str) -> list[str]:
    """The names of a group that have a file of their own."""
    folder = configs() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
