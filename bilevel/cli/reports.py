"""``command=report RUN...`` writes one HTML file; ``command=watch DIR`` shows it while the runs last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bilevel.cli.folders import refuse_absent, refuse_file
from bilevel.cli.sentences import SettingsError
from bilevel.loggers.json_lines import write_whole
from bilevel.report import REPORT, found, page
from bilevel.report.server import Server


def report(words: list[str], settings: dict[str, str]) -> None:
    """Writes the report on the runs in these folders (those below a folder that is no run, as of a sweep) and prints
    where it lies: in the folder given, in the folder that holds them all, or ``output=FILE``."""
    folders = places(words, "report", "RUN...")
    try:
        runs = found(folders)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    common = folders[0] if len(folders) == 1 else Path(os.path.commonpath([folder.absolute() for folder in folders]))
    target = Path(settings["output"]).expanduser() if "output" in settings else common / REPORT
    refuse_file("output", target)
    write_whole(target, page(runs))
    print(target)


def watch(words: list[str], settings: dict[str, str]) -> None:
    """Serves the report of a folder on this machine alone until Ctrl-C; the page reads the record anew each time."""
    (folder, *more) = places(words, "watch", "DIR")
    if more:
        raise SettingsError("command=watch takes one folder: that of a run, or of a sweep.")
    port = settings.get("port", "0")
    if not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"port={port}: a whole number up to 65535 is needed, as in port=8000.")
    try:
        server = Server(folder, int(port))
    except OSError as error:
        raise SettingsError(
            f"port={port}: it cannot be opened ({error.strerror}); leave it out to get a free one."
        ) from error
    print(f"{server.address}\nCtrl-C ends it.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def places(words: Sequence[str], command: str, example: str) -> list[Path]:
    """The folders that were named. SettingsError where there is none, or one is not there."""
    if not words:
        raise SettingsError(f"command={command} needs a folder: bilevel command={command} {example}")
    folders = [Path(word).expanduser() for word in words]
    for folder in folders:
        refuse_absent(folder)
    return folders
