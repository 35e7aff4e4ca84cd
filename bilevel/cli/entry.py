"""The entry point: composes the settings, runs, and ends with one sentence and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel.cli import distributed, sweep
from bilevel.cli.arguments import COMMANDS, translate
from bilevel.cli.choices import configs
from bilevel.cli.commands import asked
from bilevel.cli.completion import answered
from bilevel.cli.generated import register
from bilevel.cli.interrupts import INTERRUPTED, heed_no_more, leave_reader, put_off, quit_at_once
from bilevel.cli.sentences import SettingsError, Told, one_line, sentence
from bilevel.cli.settings import check_settings, with_logger
from bilevel.data import DataError

FAILURE, WRONG_SETTINGS = 1, 2
SEARCH = "hydra/sweeper=search"
BEGAN = time.time() - 1.0  # some file systems store whole seconds
OmegaConf.register_new_resolver(  # a run of a user's task is named after its function
    "run_name", lambda choice, target: str(target).rpartition(".")[2] if choice == "own" else choice, replace=True
)


def run() -> None:
    """Composes the settings of the command line and runs the job, or the jobs of a sweep."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        sys.argv.append("debug=true")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands its errors over instead of printing them
    sys.path.insert(0, os.getcwd())  # as `python -m` does, so that modules in the user's folder are found
    if sys.argv[1:] == ["--version"]:  # Hydra would print a message of its own
        print(f"bilevel {importlib.import_module('bilevel').__version__}")
        return
    if answered(sys.argv[1:]):
        return
    if "debug=true" not in sys.argv:
        warnings.formatwarning = in_one_line
        sweep.let_jobs_tell()
    try:
        if found := asked(sys.argv[1:]):
            command, words, settings = found
            command(words, settings)
            return
        register(configs())
        if SEARCH in sys.argv:
            importlib.import_module("bilevel.cli.search").offer(sys.argv)
        sys.argv[1:] = translate(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(configs()), config_name="config")(job)()
        sweep.conclude()
    except Told as told:
        sweep.conclude()
        print(f"bilevel: not every run of the sweep succeeded; the first that failed: {told}", file=sys.stderr)
        sys.exit(FAILURE)
    except BrokenPipeError:
        raise
    except Exception as error:
        if "debug=true" in sys.argv:
            raise
        if type(error).__name__ in sweep.LOST:
            sweep.conclude()
            print(f"bilevel: {sweep.ADVICE}", file=sys.stderr)
            sys.exit(FAILURE)
        of_hydra = [word for word in sys.argv[1:] if word.startswith("hydra.")]
        if isinstance(error, AssertionError) and not str(error) and of_hydra:  # Hydra asserts types of its settings
            error = SettingsError(f"{', '.join(of_hydra)}: Hydra does not take such a value there.")
        print(f"bilevel: {sentence(error)}", file=sys.stderr)
        sys.exit(WRONG_SETTINGS)


def job(config: DictConfig) -> Any:
    """One run, alone or in a sweep. Hydra calls it with the composed settings."""
    if not config.debug:  # threads of checkpoints and W&B print tracebacks of errors that the run reports in a sentence
        threading.excepthook = lambda _: None
        sys.excepthook = of_main_thread
        logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # prints the traceback of what is told below
        warnings.formatwarning = in_one_line
        warnings.simplefilter("ignore", ResourceWarning)  # of W&B's own folders for what it uploads
        importlib.import_module("bilevel.cli.event_loops").install()
    try:
        config = with_logger(config)
        check_settings(config)
        module, _, name = COMMANDS[config.command].partition(":")
        with put_off():
            command = getattr(importlib.import_module(module), name)
        return command(config)
    except BrokenPipeError:
        leave_reader()
    except KeyboardInterrupt as interrupt:
        heed_no_more()
        take_away_empty(Path(HydraConfig.get().runtime.output_dir))
        again = f"; {sweep.AGAIN}." if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        tell(f"{interrupt}".strip() or f"interrupted{again}")
        distributed.leave(INTERRUPTED)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise SystemExit(INTERRUPTED) from None
        quit_at_once(INTERRUPTED)
    except Exception as error:
        if config.debug and not distributed.several():
            raise
        if config.debug:
            traceback.print_exc()
        tell(sentence(error))
        take_away_empty(Path(HydraConfig.get().runtime.output_dir))
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise Told(sentence(error)) from None  # the other runs of the sweep go on
        wrong = isinstance(error, SettingsError | OmegaConfBaseException | InstantiationException | DataError)
        distributed.leave(WRONG_SETTINGS if wrong else FAILURE)
        raise SystemExit(WRONG_SETTINGS if wrong else FAILURE) from None


def of_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error of the main thread as Python does. It drops the errors of threads that compiled code started,
    because they come from a failed write to disk, which the run reports in a sentence of its own."""
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)


def in_one_line(message: Warning | str, *where: Any, **line: Any) -> str:
    """A warning as a sentence.

    The line of the library that gave it is left out, because a user of the command does not need it.
    """
    return f"bilevel: {one_line(str(message))}\n"


def take_away_empty(folder: Path) -> None:
    """Removes the folder that Hydra made for a refused run, and the empty folders above it up to the user's. A folder
    that was there before this process stays."""
    with contextlib.suppress(OSError):  # a folder that holds something, or is gone, stays as it is
        if folder != Path.cwd() and folder.stat().st_mtime >= BEGAN:
            folder.rmdir()
            while (folder := folder.parent) != Path.cwd() and folder.is_relative_to(Path.cwd()):
                folder.rmdir()


def tell(text: str) -> None:
    """One line on stderr; in a sweep with the overrides of this run."""
    context = HydraConfig.get()
    which = f" [{context.job.override_dirname}]" if context.mode == RunMode.MULTIRUN else distributed.prefix()
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"bilevel{which}: {text}", file=sys.stderr, flush=True)
