"""The folder of a run: it takes one run at a time, and a run that is there already is never overwritten."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # absent on Windows, where only its record shows that a run is there
    fcntl = None

LOCK = "run.lock"
RECORD, CHECKPOINTS = "metrics.jsonl", "checkpoints"
GLOB = "*?[]"  # orbax searches by patterns, so in a folder with these characters it finds no file


class FolderTaken(ValueError):
    """The folder holds a run, or one is writing there."""


class FolderHeld(FolderTaken):
    """Another process is writing a run in the folder."""


class RunFolder:
    """A claim on the folder of a run, taken before anything else in the folder is written and held until it is left.

    The claim is a lock on ``run.lock``; the operating system releases it when the process ends, even by a kill. With
    ``resume`` the folder may hold a run that ended; without, it may hold none. ``claim=False`` claims nothing: other
    processes of a run enter the folder that its first one holds. Raises `FolderHeld` where another process holds the
    claim, `FolderTaken` where a run is there already, ValueError for a name that checkpoints cannot be stored under.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, RunFolder(place) as folder:
    ...     try:
    ...         RunFolder(place)
    ...     except FolderTaken as error:
    ...         print("taken:", folder.path == Path(place).absolute())
    taken: True
    """

    def __init__(self, path: Path | str, resume: bool = False, claim: bool = True) -> None:
        self.path: Path = Path(path).absolute()
        if wrong := sorted(set(GLOB) & set(str(self.path))):
            raise ValueError(
                f"{self.path}: checkpoints cannot be stored in a folder whose path has {' '.join(wrong)} in it; "
                "choose another one."
            )
        self._lock = self._locked() if claim else -1
        if not claim:
            return
        try:
            self._refuse_run(resume)
        except FolderTaken:
            self.release()
            raise

    def _locked(self) -> int:
        self._made = _make(self.path)
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ValueError(
                f"{self.path}: nothing can be written there ({error.strerror}); choose another."
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise FolderHeld(f"{self.path}: {holder} is writing a run there; wait for its end.") from None
        if not self._is_there(descriptor):  # a run that wrote nothing has just removed its folder
            os.close(descriptor)
            return self._locked()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return descriptor

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == (self.path / LOCK).stat().st_ino
        except FileNotFoundError:
            return False

    def _refuse_run(self, resume: bool) -> None:
        record, checkpoints = self.path / RECORD, self.path / CHECKPOINTS
        holds = (record.exists() and record.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))
        if holds and not resume:
            raise FolderTaken(f"{self.path} holds a run already: resume that one, or choose another folder.")

    def release(self) -> None:
        """Releases the folder. Where nothing was written it removes the lock, and the folder if it was made for the
        run."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):  # the folder is gone, or another process has just written there
                if [entry.name for entry in os.scandir(self.path)] == [LOCK]:
                    (self.path / LOCK).unlink()
                    if self._made:
                        self.path.rmdir()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _make(path: Path) -> bool:
    """Whether the folder was not there before."""
    try:
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        return made
    except OSError as error:
        raise ValueError(f"{path}: the folder of the run cannot be made ({error.strerror}).") from error


def free_folder(path: Path) -> RunFolder:
    """A claim on ``path``, or on the first of path-2, path-3, ... without a run, because two runs may start in the same
    second."""
    number, candidate = 1, path
    while True:
        try:
            return RunFolder(candidate)
        except FolderTaken:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
