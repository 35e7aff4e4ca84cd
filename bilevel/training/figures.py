"""The figures of a run: losses, hypergradient and hyperparameters. matplotlib loads when a figure is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bilevel.loggers import Logger
from bilevel.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Result(Protocol):
    """What a figure reads of a `bilevel.training.result.Result`."""

    @property
    def metrics(self) -> list[dict[str, Any]]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    def arrays(self) -> dict[str, np.ndarray]: ...


COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4b8a", "#444444")
FEW = 100  # up to so many hyperparameters are drawn one by one, more as a distribution
WIDE = 60  # letters of names that stand beside each other below the bars; longer ones are turned


def figures(task: Task, result: Result) -> Iterator[tuple[str, Figure]]:
    """Name and figure of the standard pictures of a run and of the task's own.

    A figure that cannot be drawn becomes a warning, because a picture must never cost a result.
    """
    for name, draw in {**standard(), **task.figures}.items():
        try:
            with style():
                figure = draw(result)
            yield name, figure
        except Exception as error:
            warnings.warn(f"the figure {name} could not be drawn: {type(error).__name__}: {error}", stacklevel=2)


def style() -> Any:
    """One style for all figures, within a ``with`` statement: colours that the colour-blind can tell apart (Okabe and
    Ito, Color universal design, 2008), and no frame above and to the right."""
    import matplotlib
    from cycler import cycler

    settings: Any = {
        **{"axes.prop_cycle": cycler(color=COLORS), "axes.spines.top": False, "axes.spines.right": False},
        **{"font.size": 9.0, "axes.titlesize": 9.0, "legend.fontsize": 8.0, "legend.frameon": False},
    }
    return matplotlib.rc_context(settings)


def standard() -> dict[str, Callable[[Result], Figure]]:
    """The pictures that every run has."""
    return {"training": training, "hyperparameters": hyperparameters}


def drawn(result: Result, name: str) -> Figure:
    """A standard picture by its name. ValueError for another name."""
    if name not in standard():
        raise ValueError(f"There is no figure {name!r} of every result: choose one of {', '.join(standard())}.")
    with style():
        return standard()[name](result)


def keep_figure(logger: Logger, name: str, figure: Any) -> None:
    """Hands a figure to a logger; a value that is no figure becomes a warning, too."""
    try:
        logger.figure(name, figure)
    except OSError:  # a full disk
        raise
    except Exception as error:
        warnings.warn(f"the figure {name} could not be kept: {type(error).__name__}: {error}", stacklevel=3)


def training(result: Result) -> Figure:
    """Outer loss, held-out losses and the norm of the hypergradient against the outer step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = ["outer/loss", *(name for name in result.metrics[-1] if name.endswith("/loss") and name != "outer/loss")]
    for name in losses:
        left.plot(*series(result, name), label=LABELS.get(name, name), linewidth=1.8 if name == "outer/loss" else 1.2)
    best = result.summary.get("best_step", -1)
    if best >= 0:
        left.axvline(best, color="0.7", linewidth=0.8, linestyle="--", label="chosen step", zorder=0)
    left.set(xlabel="outer step", ylabel="loss")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=8)
    right.plot(*series(result, "outer/grad_norm"), label="norm of the hypergradient")
    right.plot(*series(result, "error_estimate"), label="estimate of its error", linewidth=1.0)
    positive_log(right)
    right.set(xlabel="outer step")
    right.legend(frameon=False, fontsize=8)
    return figure


LABELS = {"outer/loss": "validation (outer loss)", "test/loss": "test, held out", "stop/loss": "second hold-out"}


def hyperparameters(result: Result) -> Figure:
    """The hyperparameters of the chosen iterate, a panel for each array: one by one, or as a distribution if many. A
    single one is shown as its path, with the outer loss along it."""
    from matplotlib.figure import Figure

    arrays = {name: array for name, array in result.arrays().items() if name.startswith("hparams")}
    if len(arrays) == 1 and all(array.size == 1 and name in result.metrics[-1] for name, array in arrays.items()):
        return path(result, next(iter(arrays)))
    figure = Figure(figsize=(7, 2.6 * len(arrays)), layout="constrained")
    for axes, (name, array) in zip(figure.subplots(len(arrays), squeeze=False)[:, 0], arrays.items(), strict=True):
        last = result.arrays()[f"last_{name}"].ravel()
        values = array.ravel()
        if values.size <= FEW:
            axes.bar(np.arange(values.size), values, width=0.7, label="chosen step")
            axes.plot(np.arange(values.size), last, "k.", markersize=5, label="last step")
            axes.axhline(0.0, color="0.7", linewidth=0.8)
            axes.set(xlabel="index", ylabel="value")
            if labels := labels_of(result, values.size):
                axes.set_xticks(np.arange(values.size), labels, rotation=90 if len("".join(labels)) > WIDE else 0)
                axes.set_xlabel("")
        else:
            edges = np.histogram_bin_edges(np.concatenate([values, last]), bins=40)
            axes.hist(values, edges, label="chosen step")
            axes.hist(last, edges, histtype="step", color="black", label="last step")
            axes.set(xlabel="value", ylabel="number")
        axes.set_title(f"{name} ({values.size})", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    return figure


def labels_of(result: Result, size: int) -> list[str]:
    """The names of so many hyperparameters, where the task gives them (`Task.natural`); else []."""
    natural = result.summary.get("hparams_natural") or {}
    return next((list(map(str, one)) for one in natural.values() if isinstance(one, dict) and len(one) == size), [])


def path(result: Result, name: str) -> Figure:
    """A single hyperparameter over the outer steps, and the outer loss over its values."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, values = series(result, name)
    losses = series(result, "outer/loss")[1]
    found = float(np.asarray(result.arrays()[name]).item())
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, values, marker=".", markersize=4)
    left.axhline(found, color="0.6", linewidth=0.8, linestyle="--", label=f"chosen: {found:.4g}")
    left.set(xlabel="outer step", ylabel=name)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=8)
    right.plot(values, losses, marker=".", markersize=4)
    right.plot(values[:1], losses[:1], "ks", markersize=5, label="start")
    right.axvline(found, color="0.6", linewidth=0.8, linestyle="--", label="chosen")
    right.set(xlabel=name, ylabel="outer loss")
    right.legend(frameon=False, fontsize=8)
    return figure


def series(result: Result, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, where it was measured."""
    lines = [line for line in result.metrics if name in line]
    return np.array([line["step"] for line in lines]), np.array([line[name] for line in lines], float)


def positive_log(axes: Axes) -> None:
    """A logarithmic scale, where there is something positive to show."""
    values: Any = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    if np.any(np.isfinite(values) & (values > 0)):
        axes.set_yscale("log")
