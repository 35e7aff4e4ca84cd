"""The form ``qp`` with its bounds as rows, and what a solver of it found, taken apart again."""

from __future__ import annotations

import numpy as np


def rows(arrays: dict) -> tuple[np.ndarray, np.ndarray]:
    """(G, h) with the finite bounds appended."""
    eye, low, high = np.eye(arrays["q"].size), arrays["low"], arrays["high"]
    below, above = np.isfinite(low), np.isfinite(high)
    G = np.concatenate([arrays["G"], eye[above], -eye[below]])
    return G, np.concatenate([arrays["h"], high[above], -low[below]])


def found(arrays: dict, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> dict:
    """The unknowns that count, and the multipliers of A and of G."""
    return {"params": x[: int(arrays["keep"])], "equality_dual": y, "inequality_dual": z[: arrays["h"].size]}
