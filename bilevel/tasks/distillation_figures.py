"""The figures of a distillation: learned images on their way and beside real ones, labels, and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bilevel import data as data_sets
from bilevel.foundation.typing import HParams
from bilevel.tasks import pictures
from bilevel.tasks.distillation import gallery_of
from bilevel.training.result import Result

SHOWN = 10  # images of a class in one figure
COMPARED = {  # an entry of the summary, and its name in the figure
    "test_accuracy": "learned: the kernel",
    "baseline_random": "random real images: the kernel",
    "baseline_means": "means of classes: the kernel",
    "baseline_all": "all real images: the kernel",
    "network_test_accuracy": "learned: networks",
    "baseline_random_network": "random real images: networks",
    "baseline_means_network": "means of classes: networks",
    "baseline_all_network": "all real images: networks",
}


def of(
    found: data_sets.DataSet, each: int, images_of: Callable[[HParams], np.ndarray], learn: str
) -> dict[str, Callable[[Result], Any]]:
    """The figures of a task by their names."""
    one_of_each = lambda hparams: images_of(hparams)[::each]
    drawn: dict[str, Callable[[Result], Any]] = {
        "images": lambda result: gallery_of(result, found, range(found.classes), one_of_each),
        "accuracies": accuracies,
    }
    if each > 1:
        drawn["learned"] = lambda result: learned(found, images_of(result.hparams), each)
    if learn != "images":
        drawn["labels"] = lambda result: labels(np.asarray(result.hparams["labels"]), found.classes)
    return drawn


def learned(found: data_sets.DataSet, images: np.ndarray, each: int) -> Any:
    """The first learned images of every class, a row for each class."""
    shown = min(each, SHOWN)
    shape = found.image_shape or (1, images.shape[1])
    rows = images.reshape(found.classes, each, *shape)[:, :shown]
    titles = [str(label) for label in range(found.classes) for _ in range(shown)]
    return pictures.gallery(rows.reshape(-1, *shape), titles, shown, f"{shown} of {each} learned images of a class")


def labels(found: np.ndarray, classes: int) -> Any:
    """The mean learned label of the images of every class."""
    means = found.reshape(classes, -1, found.shape[1]).mean(axis=1)
    return pictures.heatmap(means, "learned labels: a row for each class, the mean of its images")


def accuracies(result: Result) -> Any:
    """The test accuracies of the run and of what it is compared with."""
    from matplotlib.figure import Figure

    summary: Mapping[str, Any] = result.summary
    known = {name: summary[entry] for entry, name in COMPARED.items() if summary.get(entry) is not None}
    figure = Figure(figsize=(6.5, 1.0 + 0.3 * len(known)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(known))
    marks = axes.barh(
        places, list(known.values()), color=["#0072b2" if "kernel" in name else "#e69f00" for name in known]
    )
    axes.bar_label(marks, [f"{value:.3f}" for value in known.values()], padding=3, fontsize=8)
    axes.set_yticks(places, list(known), fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy", xlim=(0, 1.08))
    return figure
