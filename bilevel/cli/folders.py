"""Folders and files that a user names, refused before any work where nothing can be written or read there."""

from __future__ import annotations

import os
from pathlib import Path

from bilevel.cli.sentences import SettingsError

WRITES = os.W_OK | os.X_OK
NAMED = ("output", "hydra.run.dir", "hydra.sweep.dir")  # settings that name the folder of a run, or of a sweep


def refuse_folder(name: str, place: Path) -> None:
    """SettingsError where the folder is not there and cannot be made, or nothing may be written in it.

    >>> refuse_folder("output", Path(__file__) / "run")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    bilevel.cli.sentences.SettingsError: output=...folders.py/run: ...folders.py is a file; choose another folder by...
    """
    if why := unusable(place):
        given = f"{name}={place}: " if name in NAMED else ""
        raise SettingsError(f"{given}{why}; choose another folder by output=DIR.")


def refuse_file(name: str, place: Path) -> None:
    """SettingsError where no file can be written at this place."""
    if place.is_dir():
        raise SettingsError(f"{name}={place}: it is a folder; name a file in it, as {name}={place / 'report.html'}.")
    if not place.parent.exists():
        raise SettingsError(f"{name}={place}: there is no folder {place.parent}; make it first.")
    if why := unusable(place.parent):
        raise SettingsError(f"{name}={place}: {why}; choose another place.")


def refuse_absent(folder: Path) -> None:
    """SettingsError where there is no such folder."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: {'it is a file' if folder.exists() else 'there is no such folder'}.")


def unusable(place: Path) -> str:
    """Why nothing can be written in a folder, which may have to be made; "" where it can."""
    absolute = place.absolute()
    there = next(one for one in (absolute, *absolute.parents) if os.path.lexists(one))
    if not there.is_dir():
        return f"{there} is {'a file' if there.exists() else 'a link to nothing'}"
    return "" if os.access(there, WRITES) else f"nothing may be written in {there}"
