"""``command=data``: the data sets that are found, their places, and how to get the others."""

from __future__ import annotations

from omegaconf import DictConfig


def data(config: DictConfig) -> None:
    """Prints a paragraph for each data set; checksums of files that are found are verified."""
    from bilevel.data import listing

    for row in listing(config.data.root):
        print(f"{row.name}: {row.description}\n    {row.where}\n    {row.address}")
