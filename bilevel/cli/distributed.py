"""Several processes on one problem: how they find each other, what they print, and how one of them ends."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel.cli.interrupts import quit_at_once
from bilevel.cli.sentences import SettingsError

STATED = ("coordinator", "processes", "id")
# Variables that a scheduler sets in a process that it starts, and those with the number of processes, which Kubernetes
# does not tell.
SCHEDULERS = {
    "SLURM_STEP_NODELIST": "SLURM_NTASKS",
    "OMPI_MCA_orte_hnp_uri": "OMPI_COMM_WORLD_SIZE",
    "JOB_COMPLETION_INDEX": None,
}
LAST = 1.0  # seconds that the first process stays, because JAX ends the others at once when it has gone
_joined: list[int] = []  # the number of this process, where there are several
_keep: list[Any] = []  # functions that C points to, because its pointer does not keep them alive


def check_distributed(config: DictConfig) -> None:
    """SettingsError for processes that cannot work together; nothing is started."""
    settings = settings_of(config)
    given = {name: settings.get(name) for name in STATED if settings.get(name) is not None}
    if not given:
        return
    if missing := [name for name in STATED if name not in given]:
        raise SettingsError(
            f"distributed.{missing[0]}=VALUE is needed beside distributed.{next(iter(given))}: several processes are "
            "stated by coordinator=HOST:PORT, processes and id."
        )
    coordinator, processes, number = (given[name] for name in STATED)
    if not re.fullmatch(r".+:\d+", str(coordinator)):
        raise SettingsError(f"distributed.coordinator={coordinator}: HOST:PORT of the first process is needed.")
    for name, value in (("processes", processes), ("id", number)):
        if not isinstance(value, int) or isinstance(value, bool) or value < (name == "processes"):
            raise SettingsError(f"distributed.{name}={value}: a whole number is needed, as in distributed.{name}=1.")
    if number >= processes:
        raise SettingsError(
            f"distributed.id={number}: {processes} processes have the numbers from 0 to {processes - 1}."
        )
    if config.command != "train":
        raise SettingsError(f"command={config.command} runs in one process: leave out distributed.coordinator.")
    if processes > 1 and not meshed(config):
        raise SettingsError(
            f"distributed.processes={processes}: without a mesh each process would solve the whole problem by itself; "
            "set mesh.data=N, where N is the number of devices of all processes."
        )


def meshed(config: DictConfig) -> bool:
    """Whether the settings ask for several devices."""
    mesh = config.get("mesh") or {}
    return mesh.get("data", 1) * mesh.get("params", 1) > 1


def scheduled(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler started this process and others beside it.

    >>> scheduled({"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}), scheduled({"SLURM_NTASKS": "2"})
    (True, False)
    """
    return any(
        sign in environment and (count is None or environment.get(count, "1") != "1")
        for sign, count in SCHEDULERS.items()
    )


def settings_of(config: DictConfig) -> DictConfig:
    """The group ``distributed``, without anything in it for the record of an earlier version."""
    return config.get("distributed") or OmegaConf.create(dict.fromkeys((*STATED, "detect", "timeout", "heartbeat")))


def join(config: DictConfig, in_sweep: bool) -> None:
    """Starts `jax.distributed` where the settings or a scheduler name several processes. Returns when all have joined.

    Raises ConnectionError where a process is missing, or the port of the first one is taken."""
    settings = settings_of(config)
    stated = settings.get("coordinator") is not None
    found = settings.get("detect") and meshed(config) and not in_sweep and scheduled(os.environ)
    if _joined or not (stated or found):
        return
    if stated and settings.id == 0:
        refuse_taken(settings.coordinator)
    if not config.debug:
        set_apart_native_output()
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # because it takes SIGTERM, which stops a run
    parts = (settings.coordinator, settings.processes, settings.id) if stated else (None, None, None)
    seconds = {"initialization_timeout": settings.timeout, "heartbeat_timeout_seconds": settings.heartbeat}
    last_words(f"{whom(settings)} did not answer within distributed.timeout={settings.timeout} seconds.")
    try:
        # The first process draws figures and writes the report while the others wait for its end.
        jax.distributed.initialize(*parts, **seconds, shutdown_timeout_seconds=24 * 3600)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(unjoined(settings, error)) from error
    _joined.append(jax.process_index())
    signal.set_wakeup_fd(-1)  # a stop is heeded at the end of a step, when all processes have heard of it
    if _joined[0]:
        logging.getLogger("bilevel").setLevel(logging.ERROR)  # the first process warns
        warnings.simplefilter("ignore")


def whom(settings: DictConfig) -> str:
    """The processes that this one waits for."""
    if settings.coordinator is None:
        return "The processes that the scheduler started"
    if settings.id == 0:
        return f"The others of distributed.processes={settings.processes}"
    return f"The first process, at distributed.coordinator={settings.coordinator},"


def unjoined(settings: DictConfig, error: Exception) -> str:
    """The sentence for processes that did not come together."""
    reason = " ".join(str(error).split())
    if "DEADLINE_EXCEEDED" in reason or "timed out" in reason:
        return f"{whom(settings)} did not answer within distributed.timeout={settings.timeout} seconds."
    remedy = "" if settings.coordinator else "; state coordinator, processes and id, or set distributed.detect=false"
    return f"{whom(settings)} cannot be joined ({reason[:200].rstrip('.')}){remedy}."


def refuse_taken(coordinator: str) -> None:
    """ConnectionError where another program listens on the port, because JAX would crash."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise ConnectionError(
                f"distributed.coordinator={coordinator}: the first process cannot listen there ({error.strerror}); "
                "choose another port for all processes."
            ) from error


def several() -> bool:
    """Whether this process is one of several."""
    return bool(_joined)


def prefix() -> str:
    """The number of this process, for its lines on stderr; empty where it is alone."""
    return f" [process {_joined[0]}]" if _joined else ""


def leave(code: int) -> None:
    """Ends one of several processes at once, because JAX's own end waits for the others, which may wait for this one;
    nothing where there is one process."""
    if _joined:
        time.sleep(LAST if _joined[0] == 0 else 0.0)
        quit_at_once(code)


def set_apart_native_output() -> None:
    """Discards what compiled code prints, and keeps what Python prints. Gloo prints "[Gloo] Rank ..." on stdout, where
    scripts read the folder of the run. JAX prints a stack where a process ends with another one, and a user needs one
    sentence."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        before.flush()
        after = os.fdopen(os.dup(before.fileno()), "w", buffering=1, encoding=before.encoding, errors=before.errors)
        os.dup2(nowhere, before.fileno())
        setattr(sys, name, after)
        for handler in [*logging.getLogger().handlers, *logging.getLogger("bilevel").handlers]:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)


def last_words(text: str) -> None:
    """Sets the sentence of this process for the case that JAX ends it by ``abort()``, as when the first process has
    gone. It is a handler of C's, because no handler of Python's runs then."""
    if not hasattr(signal, "SIGABRT") or sys.platform == "win32":
        return

    def say(number: int) -> None:
        os.write(sys.stderr.fileno(), f"bilevel{prefix()}: {text}\n".encode())
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(say)
    _keep[:] = [handler]
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
