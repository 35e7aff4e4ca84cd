"""Line charts as inline SVG, whose colours are variables of the page so that they follow its light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 10, 40
MOST = 400  # points of a curve; more are thinned, because no screen shows them
DASHES = ("", "7 3", "2 3", "8 3 2 3")  # beside colours, for readers who cannot tell these apart
LEVELS = ("1 3", "4 4", "10 3 1 3", "1 6")  # dashes of the lines that have the colour of a curve
COLORS = 8


class Curve(NamedTuple):
    """A named line; points that are not finite are gaps. ``like`` is the place of the curve whose colour it has."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    like: int = -1


class Band(NamedTuple):
    """The area between two lines over the same x."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Scale(NamedTuple):
    """The map of values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else steps(self.low, self.high)


def chart(
    title: str, curves: Sequence[Curve], across: str = "outer step", band: Band | None = None, mark: float | None = None
) -> str:
    """A figure with its title and legend as text of the page; "" where there is nothing finite to draw. The ordinate is
    logarithmic where all is positive and spans more than a factor of 100. ``mark`` is the chosen step."""
    curves = [thinned(curve) for curve in curves]
    y = [value for curve in curves for value in curve.y if math.isfinite(value)]
    x = [value for curve in curves for value in curve.x]
    if not y:
        return ""
    log = min(y) > 0 and max(y) > 100 * min(y)
    if band is not None and not log:
        y += [value for side in (band.low, band.high) for value in side if math.isfinite(value)]
    x += [] if mark is None else [float(mark)]
    horizontal = Scale(*spread(min(x), max(x), 0.0), LEFT, WIDTH - RIGHT)
    low, high = (min(y), max(y)) if log else spread(min(y), max(y), 0.05)
    vertical = Scale(*((low / 1.3, high * 1.3) if log else (low, high)), HEIGHT - BOTTOM, TOP, log)
    parts = [*axes(horizontal, vertical, across, whole=all(value == int(value) for value in y))]
    if band is not None:
        parts.append(area(band, horizontal, vertical))
    if mark is not None:
        at = horizontal(mark)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    parts += [line(curve, number, horizontal, vertical) for number, curve in enumerate(curves)]
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{legend(curves, band, mark)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def axes(horizontal: Scale, vertical: Scale, across: str, whole: bool) -> list[str]:
    """Grid lines with their numbers, whole ones where all values are, and the name of the abscissa."""
    parts = []
    for tick in (tick for tick in vertical.ticks() if not whole or tick == int(tick)):
        at = vertical(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="up" x="{LEFT - 6}" y="{at + 4:.1f}">{number(tick)}</text>')
    for tick in (tick for tick in horizontal.ticks() if tick == int(tick)):
        at = horizontal(tick)
        parts.append(f'<text class="across" x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}">{int(tick)}</text>')
    middle = 0.5 * (LEFT + WIDTH - RIGHT)
    parts.append(f'<text class="across" x="{middle}" y="{HEIGHT - 6}">{escape(across)}</text>')
    return parts


def line(curve: Curve, index: int, horizontal: Scale, vertical: Scale) -> str:
    """The path of a curve, interrupted where a value is not finite (or not positive, on a logarithmic scale); a curve
    of one point is a dot."""
    commands, pen = [], "M"
    for x, y in zip(curve.x, curve.y, strict=True):
        if not math.isfinite(y) or (vertical.log and y <= 0):
            pen = "M"
            continue
        commands.append(f"{pen}{horizontal(x):.1f},{vertical(y):.1f}")
        pen = "L"
    if len(commands) == 1:
        commands.append("h0.01")
    return f'<path {look(curve, index)} d="{"".join(commands)}"/>'


def look(curve: Curve, index: int) -> str:
    """Colour and dashes of a curve. The second eight differ from the first in their dashes, and so do curves that have
    the colour of another one."""
    dash = DASHES[(index + index // COLORS) % len(DASHES)]
    if curve.like >= 0:
        dash = LEVELS[index % len(LEVELS)]
    color = (index if curve.like < 0 else curve.like) % COLORS
    return f'class="line c{color}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def area(band: Band, horizontal: Scale, vertical: Scale) -> str:
    """The filled area of a band, cut off at the axes."""
    inside = lambda value: min(max(value, vertical.low), vertical.high)
    points = [(x, low, high) for x, low, high in zip(*band[1:], strict=True) if math.isfinite(low + high)]
    outline = [(x, inside(high)) for x, _, high in points] + [(x, inside(low)) for x, low, _ in reversed(points)]
    return f'<polygon class="band" points="{" ".join(f"{horizontal(x):.1f},{vertical(y):.1f}" for x, y in outline)}"/>'


def legend(curves: Sequence[Curve], band: Band | None, mark: float | None) -> str:
    """The names of what a chart holds, in its colours; text of the page, which wraps where it is narrow."""
    swatch = lambda curve, number: f'<svg viewBox="0 0 28 8"><path {look(curve, number)} d="M1,4h26"/></svg>'
    entries = [
        f'<span class="key">{swatch(curve, number)}{escape(curve.name)}</span>' for number, curve in enumerate(curves)
    ]
    if band is not None:
        entries.append(f'<span class="key"><i class="kband"></i>{escape(band.name)}</span>')
    if mark is not None:
        entries.append(f'<span class="key"><i class="kmark"></i>chosen step {int(mark)}</span>')
    return f'<span class="legend">{"".join(entries)}</span>'


def thinned(curve: Curve) -> Curve:
    """At most `MOST` points of a curve, the last among them."""
    stride = -(-len(curve.x) // MOST)
    last = [len(curve.x) - 1] if curve.x else []
    kept: list[int] = sorted({*range(0, len(curve.x), max(stride, 1)), *last})
    return curve._replace(x=[float(curve.x[k]) for k in kept], y=[float(curve.y[k]) for k in kept])


def spread(low: float, high: float, margin: float) -> tuple[float, float]:
    """An interval around the values that is not empty.

    >>> spread(1.0, 1.0, 0.05)
    (0.5, 1.5)
    """
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = 0.5 * max(abs(low), 1e-12)
        return low - room, high + room
    return low - margin * (high - low), high + margin * (high - low)


def steps(low: float, high: float) -> list[float]:
    """At most six round numbers within an interval.

    >>> steps(0.0, 49.0)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """At most six powers of ten within an interval."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, -(-(last - first + 1) // 6))
    return [10.0**power for power in range(first, last + 1, stride)]


def number(value: float) -> str:
    """A tick's number, short."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
