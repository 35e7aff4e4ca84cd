"""`bilevel.sklearn.HypergradientSearchCV` beside scikit-learn's searches: seconds, fold losses, held-out losses.

    python -m experiments.peers.sklearn [--splits 20] [--only one_value,separate]

one_value: C of a LogisticRegression on 300 x 30 (breast_cancer), first and second fit, against a 60-point GridSearchCV.
separate: one penalty a feature with and without the guard, against the best single value: the loss on rows that no fold
saw, mean over splits with its standard error. "breast_cancer": 341 rows to fit, the rest held out. "sparse": 480 rows
of 60 normal features of which 6 have a coefficient (of size 1), and 5,000 held out. Rows go to results/sklearn.csv.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from bilevel.sklearn import HypergradientSearchCV

RESULTS = Path(__file__).parent / "results" / "sklearn.csv"
FIT, FOLDS, GRID = 341, 5, 60
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
    for arm in ("first fit", "second fit"):
        search = HypergradientSearchCV(estimator(), {"C": (1e-4, 1e4)}, cv=FOLDS, scoring="neg_log_loss")
        yield timed("one_value", arm, search, x, y)
    grid = {"C": np.logspace(-4, 4, GRID)}
    yield timed("one_value", f"grid of {GRID}", GridSearchCV(estimator(), grid, cv=FOLDS, scoring="neg_log_loss"), x, y)


def timed(study: str, arm: str, search: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    began = time.perf_counter()
    search.fit(x, y)
    seconds = time.perf_counter() - began
    return {"study": study, "arm": arm, "seconds": seconds, "loss": -search.best_score_}


def separate(splits: int) -> Iterator[dict[str, Any]]:
    for name, draw in {"sparse": sparse, "breast_cancer": breast_cancer}.items():
        for seed in range(splits):
            (x, y), (other, held) = draw(seed)
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            arms = {"single": ((1e-4, 1e4), "auto"), "guarded": ("per_feature", "auto"), "free": ("per_feature", "off")}
            for arm, (space, guard) in arms.items():
                search = HypergradientSearchCV(estimator(), {"C": space}, cv=folds, guard=guard)
                row = timed(name, arm, search, x, y)
                row["loss"] = log_loss(held, search.predict_proba(other))
                row |= {"seed": seed, "fold_loss": search.history_[search.best_index_]["loss"], "guard": search.guard_}
                yield row


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
    parser.add_argument("--only", default="one_value,separate")
    arguments = parser.parse_args()
    studies = {"one_value": one_value, "separate": lambda: separate(arguments.splits)}
    rows: list[dict[str, Any]] = []
    warnings.simplefilter("ignore")
    for study in arguments.only.split(","):
        for row in studies[study]():
            rows.append(row)
            print(
                {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
    summary(rows)
    with RESULTS.open("w", newline="") as file:
        fields = ["study", "arm", "seed", "seconds", "loss", "fold_loss", "guard"]
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
