"""How large an installation is: the package with all that it needs, and what each extra adds, in megabytes on the disk.

python scripts/install_size.py           a line for the package, the largest of its needs, and each extra that is there

It adds up the files that pip recorded, in this environment, of a package and of whatever that requires.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "bilevel"
LARGEST = 6  # needs that get a line of their own


def named(name: str) -> str:
    """The name as pip compares it.

    >>> named("Hydra_Core")
    'hydra-core'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(name: str, extra: str = "") -> set[str]:
    """The packages that one requires directly, under an extra of it."""
    found = set()
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": given}) for given in ("", extra)):
            found.add(named(one.name))
    return found


def closure(names: Iterable[str]) -> tuple[set[str], set[str]]:
    """The packages of these names with all that they require, and those that are not installed."""
    there, missing, left = set(), set(), set(names)
    while left:
        name = left.pop()
        try:
            left |= needs(name) - there - missing
            there.add(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
    return there, missing


def megabytes(name: str) -> float:
    """The files of a package on the disk."""
    places = [Path(str(file.locate())) for file in metadata.files(name) or ()]
    return sum(place.stat().st_size for place in places if place.is_file()) / 1e6


def main() -> None:
    base, _ = closure([PACKAGE])
    sizes = {name: megabytes(name) for name in base}
    print(f"{PACKAGE} with {len(base) - 1} packages: {sum(sizes.values()):.0f} MB")
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]:
        print(f"  {name}: {sizes[name]:.0f} MB")
    for extra in metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
        there, missing = closure(needs(PACKAGE, extra) - {PACKAGE})
        added = sum(megabytes(name) for name in there - base)
        told = f"not installed here: {', '.join(sorted(missing))}" if missing else f"{added:.0f} MB more"
        print(f"[{extra}] {told}")


if __name__ == "__main__":
    main()
