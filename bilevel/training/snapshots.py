"""Hyperparameters at the start and after 1, 2, 4, 8, ... outer steps: their path, where a line cannot hold them."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import jax
import numpy as np

from bilevel.foundation.typing import HParams

FILE = "path.npz"
MOST = 1_000_000  # numbers that are kept in all: 8 MB, while a network may have as many in one snapshot


class Snapshots:
    """``kept`` is {step: hyperparameters before that step}, as NumPy arrays. With a directory they are in its file
    ``path.npz`` too, an array ``STEP/hparams...`` for each leaf; none is kept beyond `MOST` numbers in all."""

    def __init__(self, directory: Path | None = None) -> None:
        self.file = directory / FILE if directory else None
        self.kept: dict[int, HParams] = {}

    def keep(self, step: int, hparams: HParams) -> None:
        """Takes a snapshot, if one is due at this step and there is room for it."""
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(hparams))
        if step & (step - 1) or size * (len(self.kept) + 1) > MOST:  # no power of two and not 0, or too large
            return
        self.kept[step] = jax.tree.map(np.array, hparams)
        if self.file:
            beside = self.file.with_name(f"{self.file.stem}.part.npz")
            np.savez(beside, **self._arrays())  # pyright: ignore[reportArgumentType]  # numpy types **kwds as flags
            os.replace(beside, self.file)

    def restore(self, template: HParams, step: int) -> None:
        """Reads back what was kept before ``step`` of a run that goes on. A file that cannot be read is passed over:
        its snapshots are missing in a picture, and in nothing else."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(template)
        names = [f"hparams{jax.tree_util.keystr(path)}" for path, _ in leaves]
        if not self.file:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(self.file, allow_pickle=False) as arrays:
                steps = sorted({int(name.partition("/")[0]) for name in arrays.files})
                found = {at: [arrays[f"{at}/{name}"] for name in names] for at in steps if at < step}
            kinds = [np.dtype(leaf.dtype) for _, leaf in leaves]  # NumPy's files know no bfloat16
            self.kept = {
                at: jax.tree.unflatten(structure, [value.view(kind) for value, kind in zip(values, kinds, strict=True)])
                for at, values in found.items()
            }

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            f"{step}/hparams{jax.tree_util.keystr(path)}": leaf
            for step, hparams in self.kept.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(hparams)
        }
