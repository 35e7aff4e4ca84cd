"""`bilevel.sklearn.HypergradientSearchCV` beside scikit-learn's searches: seconds, fold losses, held-out losses.

    BILEVEL_DATA=DIR python -m experiments.peers.sklearn [--splits 20] [--only one_value,large,digits,genes,sparse]

one_value: C of a LogisticRegression on 300 x 30 (breast_cancer), first and later fits, against a 60-point GridSearchCV.
large: the same on 10,000 x 100 drawn samples, against a 20-point one.
digits: C of an SVC on load_digits (1,797 rows, 45 pairs of classes), against a 10-point grid; the loss is minus the
accuracy on the folds, and fold_loss the hinge loss that the descent takes.
genes: alpha of a Lasso on ALLAML (72 x 7,129), 5 folds, against the 100-point path of LassoCV, and sparho 0.2 where it
is installed (its hoag_search from the same start, without an intercept, on centred columns). "later fits" and LassoCV
take turns, and each row is the median of its runs.
breast_cancer, sparse: one penalty a feature with and without the guard, against the best single value: the loss on rows
that no fold saw, mean over splits with its standard error. "breast_cancer": 341 rows to fit, the rest held out.
"sparse": 480 rows of 60 normal features of which 6 have a coefficient (of size 1), and 5,000 held out. Rows go to
results/sklearn.csv, with the commit, the machine and its load when the row was measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import Lasso, LassoCV, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import bilevel as bl
from bilevel.sklearn import HypergradientSearchCV
from bilevel.training.figures import style

RESULTS = Path(__file__).parent / "results" / "sklearn.csv"
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "sklearn_penalties.png"
FIT, FOLDS, GRID, TURNS = 341, 5, 60, 7
Part = tuple[np.ndarray, np.ndarray]


def estimator() -> LogisticRegression:
    return LogisticRegression(max_iter=2000)


def breast_cancer(seed: int) -> tuple[Part, Part]:
    """Standardised by the rows to fit."""
    data: Any = load_breast_cancer(return_X_y=True)
    parts: Any = train_test_split(*data, train_size=FIT, random_state=seed, stratify=data[1])
    x, other, y, held = map(np.asarray, parts)
    scaler: Any = StandardScaler().fit(x)
    return (scaler.transform(x), y), (scaler.transform(other), held)


def sparse(seed: int) -> tuple[Part, Part]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((480 + 5000, 60))
    weights = np.where(np.arange(60) < 6, 1.0, 0.0)
    y = (generator.random(len(x)) < 1 / (1 + np.exp(-x @ weights))).astype(int)
    return (x[:480], y[:480]), (x[480:], y[480:])


def one_value() -> Iterator[dict[str, Any]]:
    data: Any = load_breast_cancer(return_X_y=True)
    x, y = data
    x, y = StandardScaler().fit_transform(x[:300]), y[:300]
    for arm in ("first fit", "second fit", "third fit"):
        search = HypergradientSearchCV(estimator(), {"C": (1e-4, 1e4)}, cv=FOLDS, scoring="neg_log_loss")
        yield timed("one_value", arm, search, x, y)
    grid = {"C": np.logspace(-4, 4, GRID)}
    yield timed("one_value", f"grid of {GRID}", GridSearchCV(estimator(), grid, cv=FOLDS, scoring="neg_log_loss"), x, y)


def large() -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((10_000, 100))
    weights = generator.standard_normal(100) * (np.arange(100) < 20)
    y = (generator.random(len(x)) < 1 / (1 + np.exp(-x @ weights / 3))).astype(int)
    for arm in ("first fit", "second fit"):
        search = HypergradientSearchCV(estimator(), {"C": (1e-4, 1e4)}, cv=FOLDS, scoring="neg_log_loss")
        yield timed("large", arm, search, x, y)
    grid = GridSearchCV(estimator(), {"C": np.logspace(-4, 4, 20)}, cv=FOLDS, scoring="neg_log_loss")
    yield timed("large", "grid of 20", grid, x, y)


def digits() -> Iterator[dict[str, Any]]:
    data: Any = load_digits(return_X_y=True)
    for arm in ("first fit", "second fit"):
        search = HypergradientSearchCV(SVC(), {"C": (1e-2, 1e2)}, cv=FOLDS)
        row = timed("digits", arm, search, *data)
        evaluation = f"{search.n_iter_} evaluations, C {search.best_params_['C']:.3g}"
        yield row | {"fold_loss": search.history_[search.best_index_]["loss"], "note": evaluation}
    grid = GridSearchCV(SVC(), {"C": np.logspace(-2, 2, 10)}, cv=FOLDS)
    yield timed("digits", "grid of 10", grid, *data) | {"note": f"C {grid.best_params_['C']:.3g}"}


def genes() -> Iterator[dict[str, Any]]:
    """Losses are means over the folds of half the mean squared error on the held-out rows."""
    found = bl.data.load("allaml")
    x: Any = StandardScaler().fit_transform(np.asarray(found.inputs, float))
    y = np.where(found.targets == found.targets[0], 1.0, -1.0)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    highest = float(np.max(np.abs(x.T @ (y - y.mean())))) / len(y)
    search = HypergradientSearchCV(Lasso(max_iter=10**5), {"alpha": (highest / 1000, highest)}, cv=folds)
    path = LassoCV(cv=folds, alphas=100, max_iter=10**5)
    first = timed("genes", "first fit", search, x, y)
    yield first | {"loss": search.history_[search.best_index_]["loss"]}
    runs: dict[str, list[list[float]]] = {"later fits": [], "LassoCV": []}
    for _ in range(TURNS):
        for arm, estimator in (("later fits", search), ("LassoCV", path)):
            began, busy = time.perf_counter(), time.process_time()
            estimator.fit(x, y)
            runs[arm].append([time.perf_counter() - began, time.process_time() - busy])
    losses = {
        "later fits": search.history_[search.best_index_]["loss"],
        "LassoCV": 0.5 * np.min(np.mean(path.mse_path_, 1)),
    }
    for arm, times in runs.items():
        seconds, busy = np.median(times, axis=0).tolist()
        share = np.median(times, axis=0) / np.median(runs["LassoCV"], axis=0)
        note = f"{share[0]:.3f} of LassoCV's seconds, {share[1]:.3f} of its processor time, by medians of {TURNS} turns"
        yield {
            "study": "genes",
            "arm": arm,
            "seconds": seconds,
            "processor": busy,
            "loss": float(losses[arm]),
            "note": note,
        }
    try:
        sparho: Any = importlib.import_module("sparho")
        solver = importlib.import_module("sparho.adapters.sklearn").SklearnLasso()
    except ImportError:
        return
    problem = sparho.Problem(sparho.SquaredLoss(), sparho.L1(), x, y - y.mean())
    criterion = sparho.CrossVal(tuple(folds.split(x)), warm_start=True)
    began, busy = time.perf_counter(), time.process_time()
    search = sparho.hoag_search(problem, highest / 10, solver=solver, criterion=criterion, n_iter=15)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    yield {"study": "genes", "arm": "sparho", "seconds": seconds, "processor": busy, "note": repr(search)[:200]}


def timed(study: str, arm: str, search: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    began, busy = time.perf_counter(), time.process_time()
    search.fit(x, y)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {"study": study, "arm": arm, "seconds": seconds, "processor": busy, "loss": -search.best_score_}


def separate(name: str, splits: int) -> Iterator[dict[str, Any]]:
    for seed in range(splits):
        (x, y), (other, held) = {"sparse": sparse, "breast_cancer": breast_cancer}[name](seed)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        arms = {"single": ((1e-4, 1e4), "auto"), "guarded": ("per_feature", "auto"), "free": ("per_feature", "off")}
        for arm, (space, guard) in arms.items():
            search = HypergradientSearchCV(estimator(), {"C": space}, cv=folds, guard=guard)
            row = timed(name, arm, search, x, y)
            row["loss"] = log_loss(held, search.predict_proba(other))
            row |= {"seed": seed, "fold_loss": search.history_[search.best_index_]["loss"], "guard": search.guard_}
            yield row


@style()
def draw() -> None:
    """The penalty of each feature of the first sparse problem, with the guard and without, in docs/figures."""
    (x, y), _ = sparse(0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(x.shape[1])
    for guard, marker, label in (("off", "x", "without a guard"), ("auto", "o", "with the guard")):
        search = HypergradientSearchCV(estimator(), {"C": "per_feature"}, cv=folds, guard=guard).fit(x, y)
        each = np.broadcast_to(1 / np.asarray(search.best_params_["C"]), len(places))
        axes.plot(places, each, marker, label=label, markersize=5, fillstyle="none", linestyle="none")
    single = HypergradientSearchCV(estimator(), {"C": (1e-4, 1e4)}, cv=folds).fit(x, y)
    axes.axhline(1 / single.best_params_["C"], color="0.6", label="the best single value", zorder=0)
    axes.axvspan(-0.5, 5.5, color="0.92", zorder=-1, label="features with a coefficient")
    axes.set(xlabel="feature", ylabel="penalty 1 / C", yscale="log", xlim=(-1, len(places)))
    axes.legend(ncols=2)
    figure.savefig(FIGURE, dpi=150)


def summary(rows: list[dict[str, Any]]) -> None:
    """Held-out losses by study and arm, and their difference to the single value."""
    for study in dict.fromkeys(row["study"] for row in rows if "seed" in row):
        losses = {
            arm: np.array([row["loss"] for row in rows if row["study"] == study and row["arm"] == arm])
            for arm in ("single", "guarded", "free")
        }
        for arm, found in losses.items():
            gain = found[: len(losses["free"])] - losses["single"][: len(losses["free"])]
            error = np.std(gain, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
            print(f"{study:14} {arm:8} {np.mean(found):.4f}   against single {np.mean(gain):+.4f} +- {error:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--only", default="one_value,large,digits,genes,sparse,breast_cancer")
    parser.add_argument("--figure", action="store_true", help="draws docs/figures/sklearn_penalties.png first")
    arguments = parser.parse_args()
    studies = {"one_value": one_value, "large": large, "digits": digits, "genes": genes}
    studies |= {name: partial(separate, name, arguments.splits) for name in ("sparse", "breast_cancer")}
    rows: list[dict[str, Any]] = []
    warnings.simplefilter("ignore")
    surroundings = {
        "commit": commit(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    if arguments.figure:
        draw()
    for study in filter(None, arguments.only.split(",")):
        for row in studies[study]():
            row |= surroundings | {"load": round(os.getloadavg()[0], 1)}
            rows.append(row)
            print(
                {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
        write(rows)
    summary(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """The rows of these studies in the place of those that the file has of them."""
    fields = [
        "study",
        "arm",
        "seed",
        "seconds",
        "processor",
        "loss",
        "fold_loss",
        "guard",
        "note",
        "commit",
        "machine",
        "load",
    ]
    kept: list[dict[str, Any]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["study"] not in {one["study"] for one in rows}]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(kept + rows)


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
