"""JSON that every reader takes: NaN and infinity are no JSON, though Python's ``json`` writes them.

NaN is written as null, because it is no value, and infinity as the string "Infinity" or "-Infinity". So an unknown
number and an unbounded one stay apart.
"""

from __future__ import annotations

import json
import math
from typing import Any

INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as strict JSON.

    >>> dumps({"loss": float("nan"), "bound": [float("inf"), 1.0]})
    '{"loss": null, "bound": ["Infinity", 1.0]}'
    """
    return json.dumps(_encoded(value), indent=indent, allow_nan=False)


def loads(text: str) -> Any:
    """The value that `dumps` wrote, with null as NaN. Reads older records too, which hold NaN and Infinity themselves.

    >>> loads('{"loss": null, "bound": "Infinity"}')
    {'loss': nan, 'bound': inf}
    """
    found = json.loads(text)
    # Most lines of a long record have neither, and a resumed run reads all of them.
    return _decoded(found) if "null" in text or "Infinity" in text else found


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encoded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _decoded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    if value is None:
        return math.nan
    return INFINITIES.get(value, value) if isinstance(value, str) else value
