"""Task-driven dictionary learning: atoms learned through sparse codes, for the label instead of the reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.foundation.typing import HParams, Key
from bilevel.task import Headline, Task

from .comparison import chosen_auc, classifier, fits_of, interval, masks_of
from .sparse_codes import coding, unsupervised
from .task_driven import GRID, Samples, compared_splits, levels, with_head


def samples(data: str, root: str, genes: int) -> Samples:
    """The ``genes`` of largest variance, centred; scaled together, so that loud genes stay loud."""
    found = data_sets.classification(data, root)
    if found.classes != 2:
        raise data_sets.DataError(
            f"The data set {data} has {found.classes} classes, and AUC needs 2: choose planted, allaml or colon."
        )
    chosen = np.argsort(-found.inputs.var(axis=0))[:genes]
    inputs = found.inputs[:, np.sort(chosen)]
    inputs = inputs - inputs.mean(axis=0)
    return Samples(inputs / np.sqrt(np.median(inputs.var(axis=0))), found.targets)


def dictionary(
    *,
    data: str = "planted",
    root: str = "",
    genes: int = 1000,
    atoms: int = 10,
    zeros: float = 0.05,
    strength: float = 1.0,
    splits: int = 0,
    steps: int = 40,
    learning_rate: float = 1e-3,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Atoms D and a classifier of the sparse codes of gene expressions, learned together from the labels.

        inner:  argmin over z of 1/2 ||X - z D||^2 + l1 ||z||_1 + l2/2 ||z||^2
        outer:  mean logistic loss of (z w + b) on the training samples + ||w||^2 / (2 ``strength`` n)

    The start is unsupervised: atoms for reconstruction, and the classifier of their codes. l1 makes about ``zeros`` of
    the codes zero. Metrics: validation/auc, test/auc, codes/zero. Baseline: logistic regression on all genes, fitted to
    the same training samples, with the C of a grid of 10 of the best validation AUC.

    With ``splits`` (two or more; 0: no comparison) the summary compares, over so many random splits 60/20/20: auc_l1
    and auc_l2 (logistic regression on all genes), auc_dictionary (unsupervised), auc_task_driven, each with the half
    width _ci95 of its interval. Validation AUC chooses C, the share of zeros of either dictionary, and when to stop the
    task-driven one, after ``steps`` steps of Adam at most; then the fit is repeated on both.

    Source: Mairal, Bach and Ponce, 2012; Blondel et al., 2021, section 4.3.
    """
    if splits < 0 or splits == 1:
        raise ValueError(f"task.splits={splits}: an interval needs two splits or more; 0 leaves the comparison out.")
    found = samples(data, root, genes)
    inputs, labels = jnp.asarray(found.inputs), jnp.asarray(found.labels)
    inner = coding(len(labels), atoms)
    masks = masks_of(found.labels, seed)
    parts = {name: jnp.asarray(mask) for name, mask in masks.items()}
    batch = (inputs, labels, parts["train"], 1 / (strength * jnp.sum(parts["train"])))

    def begin(key: Key) -> HParams:
        hparams = unsupervised(inner, inputs, parts["train"], atoms, zeros)
        return with_head(hparams, inner.solve(hparams, batch).params, batch, batch[3])

    @cache
    def compared() -> dict[str, float]:
        return summary_of(list(compared_splits(found, atoms, strength, splits, steps, learning_rate)))

    def on_all_genes() -> dict[str, float]:
        fits = fits_of(classifier(inputs.shape[1], sparse=False))
        best = chosen_auc(fits, inputs, labels, parts, GRID, anew=False)
        return {"baseline/test/auc": best.test, "baseline/validation/auc": best.validation}

    if not splits:
        words = {"baseline/test/auc": f"of all {inputs.shape[1]:,} genes with the best penalty of a grid"}
        head = Headline("test/auc", "test AUC of task-driven codes", words)
        return levels(inner, begin, batch, parts, baselines=on_all_genes, precision=precision, headline=head)
    head = Headline(
        "auc_task_driven",
        f"test AUC of task-driven codes, the mean of {splits} splits,",
        {"auc_dictionary": "of unsupervised codes", "auc_l1": "of all genes with L1", "auc_l2": "of all genes with L2"},
    )
    return levels(inner, begin, batch, parts, baselines=compared, precision=precision, headline=head)


def summary_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means and half widths of intervals of what `dictionary_splits` finds."""
    numbers: dict[str, float] = {}
    for name in ("l1", "l2", "dictionary", "task_driven"):
        numbers[f"auc_{name}"], numbers[f"auc_{name}_ci95"] = interval(np.array([row[name] for row in rows]))
    gains = np.array([row["task_driven"] - row["dictionary"] for row in rows])
    numbers["auc_gain"], numbers["auc_gain_ci95"] = interval(gains)
    numbers["codes_zero"] = float(np.mean([row["zero"] for row in rows]))
    return numbers


def dictionary_splits(
    data: str = "planted", root: str = "", splits: int = 20, genes: int = 1000, atoms: int = 10, steps: int = 40
) -> Iterator[dict[str, float]]:
    """For each random split, one after the other, test AUC of the four ways (l1, l2, dictionary, task_driven), and of
    the task-driven one the share of zero codes and the outer steps that were chosen (zero, steps); settings as in
    `dictionary`."""
    return compared_splits(samples(data, root, genes), atoms, 1.0, splits, steps, 1e-3)
