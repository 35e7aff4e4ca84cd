"""The figures of a run: losses, hypergradient and hyperparameters. matplotlib loads when a figure is made."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bilevel.foundation.progress import followed
from bilevel.loggers import Logger
from bilevel.loggers.baselines import baselines_of
from bilevel.task import Task
from bilevel.training.headline import key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Result(Protocol):
    """The part of a `bilevel.training.result.Result` that a figure reads."""

    @property
    def metrics(self) -> list[dict[str, Any]]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    def arrays(self) -> dict[str, np.ndarray]: ...


COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4b8a", "#444444")
DASHES: Any = (":", "--", "-.", (0, (1, 3)))  # of the baselines of one curve, which have its colour
FEW = 100  # up to so many hyperparameters are drawn one by one, more as a distribution
NARROW = 4  # a panel has room for at least so many bars, or one bar would fill it
TALL = 4  # more panels stand in two columns
SHORT = 36  # letters up to which three entries of a legend fit side by side
WIDE = 60  # letters up to which the names below the bars stand side by side; longer names are turned


def figures(task: Task, result: Result) -> Iterator[tuple[str, Figure]]:
    """Name and figure of the standard pictures of a run and of the task's own.

    A figure that cannot be drawn becomes a warning, because a picture must never cost a result.
    """
    drawn = {**standard(), **task.figures}
    for name, draw in followed(list(drawn.items()), "figures"):
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
        **{"figure.titlesize": 10.0, "figure.labelsize": 9.0},
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
    """Outer loss and held-out losses with their baselines, and the norm of the hypergradient, by outer steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    losses = ["outer/loss", *(name for name in result.metrics[-1] if name.endswith("/loss") and name != "outer/loss")]
    for name in losses:
        label, last = LABELS.get(name, name), "final_outer_loss" if name == "outer/loss" else f"last_{key(name)}"
        curve = ended(result, series(result, name), result.summary.get(last))
        (line,) = left.plot(*curve, label=label, linewidth=1.8 if name == "outer/loss" else 1.2)
        short = re.split("[,(]", label)[0].strip()
        for (words, baseline), dashes in zip(baselines_of(result.summary, name).items(), cycle(DASHES)):
            left.axhline(baseline, color=line.get_color(), linewidth=1.2, linestyle=dashes, label=f"{short}: {words}")
    best = result.summary.get("best_step", -1)
    if best >= 0:
        left.axvline(best, color="0.7", linewidth=0.8, linestyle="--", label="chosen step", zorder=0)
    left.set(xlabel="outer step", ylabel="loss")
    whole_steps(left)
    right.plot(*series(result, "outer/grad_norm"), label="norm of the hypergradient")
    if np.isfinite((estimate := series(result, "error_estimate"))[1]).any():  # some engines have none
        right.plot(*estimate, label="estimate of its error", linewidth=1.0)
    positive_log(right)
    right.set(xlabel="outer step")
    entries = [entry for axes in (left, right) for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*entries, strict=True)
    columns = 3 if max(map(len, labels)) <= SHORT else 2
    figure.set_figheight(3.4 + 0.17 * -(-len(entries) // columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)  # where it covers no curve
    return figure


LABELS = {"outer/loss": "validation (outer loss)", "test/loss": "test, held out", "stop/loss": "second hold-out"}


def hyperparameters(result: Result) -> Figure:
    """The hyperparameters of the chosen iterate, a panel for each array: one by one, or as a distribution if many. A
    single one is shown as its path, with the outer loss along it."""
    from matplotlib.figure import Figure

    arrays = {name: array for name, array in result.arrays().items() if name.startswith("hparams")}
    if len(arrays) == 1 and all(array.size == 1 and name in result.metrics[-1] for name, array in arrays.items()):
        return path(result, next(iter(arrays)))
    columns = 1 if len(arrays) <= TALL else 2
    rows = -(-len(arrays) // columns)
    figure = Figure(figsize=(3.0 + 4.0 * columns, 2.4 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, array) in zip(panels, arrays.items(), strict=False):
        axes.set_title(f"{name} ({array.size})", fontsize=9)
        if array.size == 1 and name in result.metrics[-1]:
            course(axes, result, name, array.item())
        else:
            values_of(axes, result, array.ravel(), result.arrays()[f"last_{name}"].ravel())
    for axes in panels[len(arrays) :]:
        axes.remove()
    told = {text: mark for axes in figure.axes for mark, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(told.values()), list(told), loc="outside upper right", ncols=len(told))
    return figure


def values_of(axes: Axes, result: Result, values: np.ndarray, last: np.ndarray) -> None:
    """The entries of one array at the chosen and at the last step: bars if few, else their distribution."""
    if values.size > FEW:
        edges = np.histogram_bin_edges(np.concatenate([values, last]), bins=40).tolist()
        axes.hist(values, edges, label="chosen step")
        axes.hist(last, edges, histtype="step", color="black", label="last step (outline)")
        axes.set(xlabel="value", ylabel="number")
        return
    places = np.arange(values.size)
    axes.bar(places, values, width=0.7, label="chosen step")
    axes.plot(places, last, "k.", markersize=5, label="last step")
    axes.axhline(0.0, color="0.7", linewidth=0.8)
    axes.set(xlabel="index", ylabel="value", xlim=(-0.7, max(values.size, NARROW) - 0.3))
    whole_steps(axes)
    if labels := labels_of(result, values.size):
        axes.set_xticks(places, labels, rotation=90 if len("".join(labels)) > WIDE else 0)
        axes.set_xlabel("")


def course(axes: Axes, result: Result, name: str, found: float, label: str = "chosen") -> None:
    """A single number over the outer steps."""
    axes.plot(*ended(result, series(result, name), result.arrays()[f"last_{name}"].item()), marker=".", markersize=4)
    axes.axhline(found, color="0.6", linewidth=0.8, linestyle="--", label=label)
    axes.set(xlabel="outer step", ylabel="value")
    whole_steps(axes)


def labels_of(result: Result, size: int) -> list[str]:
    """The names of so many hyperparameters, where the task gives them (`Task.natural`); else []."""
    natural = result.summary.get("hparams_natural") or {}
    return next((list(map(str, one)) for one in natural.values() if isinstance(one, dict) and len(one) == size), [])


def path(result: Result, name: str) -> Figure:
    """A single hyperparameter over the outer steps, and the outer loss over its values."""
    from matplotlib.figure import Figure

    found = float(result.arrays()[name].item())
    natural = [f" ({words} {value:.4g})" for words, value in (result.summary.get("hparams_natural") or {}).items()]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    course(left, result, name, found, f"chosen: {found:.4g}{natural[0] if len(natural) == 1 else ''}")
    left.set_ylabel(f"{name}, as optimised")
    left.legend(frameon=False, fontsize=8)
    values = ended(result, series(result, name), result.arrays()[f"last_{name}"].item())[1]
    losses = ended(result, series(result, "outer/loss"), result.summary.get("final_outer_loss"))[1]
    shown = min(len(values), len(losses))
    right.plot(values[:shown], losses[:shown], marker=".", markersize=4)
    right.plot(values[:1], losses[:1], "ks", markersize=5, label="start")
    right.axvline(found, color="0.6", linewidth=0.8, linestyle="--", label="chosen")
    right.set(xlabel=f"{name}, as optimised", ylabel="outer loss")
    right.legend(frameon=False, fontsize=8)
    return figure


def ended(result: Result, curve: tuple[np.ndarray, np.ndarray], last: Any) -> tuple[np.ndarray, np.ndarray]:
    """A curve with its value at the last iterate, which no outer step measures; where that value is not known, the
    curve."""
    end = result.summary.get("steps")
    if last is None or end is None or not curve[0].size or curve[0][-1] >= end:
        return curve
    return np.append(curve[0], end), np.append(curve[1], float(last))


def whole_steps(axes: Axes) -> None:
    """Ticks at whole numbers, one, two or five apart, or a power of ten times that."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def series(result: Result, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, where it was measured."""
    lines = [line for line in result.metrics if name in line]
    return np.array([line["step"] for line in lines]), np.array([line[name] for line in lines], float)


def positive_log(axes: Axes) -> None:
    """A logarithmic scale, where there is something positive to show."""
    values: Any = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    if np.any(np.isfinite(values) & (values > 0)):
        axes.set_yscale("log")
