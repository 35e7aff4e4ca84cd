"""The door to the tasks that belong to one paper: ``experiments/``, beside this package, has a folder for each.

A wheel has the folders in here; in a checkout this package reads the folder beside ``bilevel/``, as `bilevel.cli` does
for ``configs/``.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1] / "experiments"

if not any(_HERE.glob("*/task.py")) and _CHECKOUT.is_dir():
    __path__.append(str(_CHECKOUT))
