"""The parts of the figures of several tasks. matplotlib loads when a figure is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(names: Sequence[str], values: np.ndarray, label: str, origin: float = 0.0) -> Figure:
    """A horizontal bar for each name, from ``origin`` to its value, first on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.2 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(np.arange(len(names)), values - origin, height=0.7, left=origin)
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)  # a fixed margin, because the default grows with the number of bars
    axes.axvline(origin, color="0.3", linewidth=0.8)
    axes.set(xlabel=label if origin == 0.0 else f"{label} (start: {origin:g})")
    return figure


def gallery(
    images: np.ndarray, titles: Sequence[str], columns: int, heading: str = "", colors: Sequence[str] = ()
) -> Figure:
    """Images (n, height, width) in rows of ``columns``, each with its title; one grey scale for all."""
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.15 * columns, 1.3 * rows + 0.5), layout="constrained")
    low, high = float(np.min(images)), float(np.max(images))
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.set_axis_off()
        if number < len(images):
            axes.imshow(images[number], cmap="gray", vmin=low, vmax=high)
            axes.set_title(titles[number], fontsize=8, color=colors[number] if colors else "black")
    if heading:
        figure.suptitle(heading, fontsize=9)
    return figure


def heatmap(image: np.ndarray, label: str) -> Figure:
    """One number for each pixel, with its scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    figure.colorbar(axes.imshow(image, cmap="viridis"), ax=axes, label=label)
    return figure


def histogram(groups: dict[str, np.ndarray], label: str, bins: int = 40) -> Figure:
    """Overlaid histograms of several groups on common bins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins).tolist()
    for name, values in groups.items():
        axes.hist(values, edges, alpha=0.6, label=f"{name} ({len(values)})")
    axes.set(xlabel=label, ylabel="number")
    axes.legend(frameon=False)
    return figure


def curves(panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], across: str, up: str) -> Figure:
    """A panel for each entry, in it a line (x, y) for each name, both axes logarithmic, x from large to small."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.9 * len(panels), 3.7), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, (x, y) in lines.items():
            drawable = np.isfinite(y) & (y > 0) & (x > 0)
            axes.loglog(x[drawable], y[drawable], label=name, linewidth=1.5)
        axes.invert_xaxis()
        axes.set(xlabel=across, title=title)
    figure.axes[0].set_ylabel(up)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
