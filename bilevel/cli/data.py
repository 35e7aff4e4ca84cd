"""``command=data``: which data sets are found, and one way to get the others."""

from __future__ import annotations

from omegaconf import DictConfig

MISSING = "missing: "


def data(config: DictConfig) -> None:
    """Prints a line for each data set, what it is and where it is; checksums of files that are found are verified. Then
    where those that are missing are published, and what to do with them."""
    from bilevel.data import listing

    rows = listing(config.data.root)
    width = max(len(f"{row.name}: {row.description}") for row in rows) + 2
    missing: dict[str, list[str]] = {}
    for row in rows:
        where, what = row.where.removeprefix(MISSING), f"{row.name}: {row.description}"
        if where.startswith("pip install") or not row.where.startswith(MISSING):
            print(f"{what:<{width}}{where}")
            continue
        print(f"{what:<{width}}{where if 'checksum' in where else 'missing'}")
        missing.setdefault(row.address, []).append(row.name)
    if missing:
        print("\nTo get the others, put the files as published into one folder, and name it by data.root=DIR or by the")
        print("environment variable BILEVEL_DATA:")
        for address, names in missing.items():
            print(f"  {', '.join(names)}: {address}")
