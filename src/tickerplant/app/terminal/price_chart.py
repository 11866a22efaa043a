"""Line charts of Braille characters, each two dots wide and four dots high. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tickerplant.core.times import Float64Array

_BLANK: Final = 0x2800
_DOTS: Final = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bit of each dot of a character, by row (from the top) and column."""
MIN_WIDTH: Final = 24
_LABEL_ROWS: Final = 4


def panel(
    title: str, series: Mapping[str, Float64Array], times: Sequence[str], *, width: int, height: int
) -> list[str]:
    """Return the lines of a chart of series of equal length, with values at the left and times below.

    `width` and `height` are in characters; the height excludes the title and the times. NaN interrupts a line. If a
    column of dots has several values, it spans their minimum to their maximum.
    """
    known = np.concatenate([values[np.isfinite(values)] for values in series.values()])
    if not len(known):
        return [title, "  no values"]
    low, high = float(known.min()), float(known.max())
    if low == high:
        low, high = low - (abs(low) * 0.01 or 1.0), high + (abs(high) * 0.01 or 1.0)
    labels = {row: _number(high - (high - low) * row / (height - 1), high - low) for row in _label_rows(height)}
    margin = max(map(len, labels.values()))
    across = max(width - margin - 2, MIN_WIDTH)
    dots = np.zeros((height * 4, across * 2), dtype=np.bool_)
    for values in series.values():
        _plot(dots, values, low, high)
    cells = (dots.reshape(height, 4, across, 2) * _DOTS[None, :, None, :]).sum(axis=(1, 3))
    lines = [title]
    for row, codes in enumerate(cells.tolist()):
        text = "".join(chr(_BLANK + code) if code else " " for code in codes).rstrip()
        lines.append(f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{text}")
    lines.append(f"{'':>{margin}} └{'─' * across}")
    return [*lines, f"{'':>{margin}}  {_times(times, across)}"]


def group_by_axis(columns: Mapping[str, Float64Array]) -> list[dict[str, Float64Array]]:
    """Group outputs that fit one axis: the distance between their ranges is at most the wider range.

    A percentage and a price on one axis would be two straight lines.
    """
    groups: list[tuple[float, float, dict[str, Float64Array]]] = []
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
        near = (max(low - most, least - high) <= max(high - low, most - least) for least, most, _ in groups)
        at = next((i for i, is_near in enumerate(near) if is_near), len(groups))
        least, most, group = groups[at] if at < len(groups) else (low, high, {})
        groups[at : at + 1] = [(min(low, least), max(high, most), {**group, name: values})]
    return [group for _, _, group in groups]


def _plot(dots: np.ndarray[tuple[int, int], np.dtype[np.bool_]], values: Float64Array, low: float, high: float) -> None:
    """Set the dots of one line: straight between neighbours, interrupted only at NaN."""
    rows, columns = dots.shape
    at = np.linspace(0, columns - 1, len(values)) if len(values) > 1 else np.zeros(len(values))
    heights = (high - values) / (high - low) * (rows - 1)
    before: tuple[float, float] | None = None
    for x, y in zip(at.tolist(), heights.tolist(), strict=True):
        if y != y:
            before = None
            continue
        x0, y0 = before if before is not None else (x, y)
        steps = max(abs(round(y) - round(y0)), abs(round(x) - round(x0)), 1)
        for step in range(steps + 1):
            part = step / steps
            dots[round(y0 + (y - y0) * part), round(x0 + (x - x0) * part)] = True
        before = (x, y)


def _label_rows(height: int) -> list[int]:
    return [*range(0, height - 1 - _LABEL_ROWS // 2, _LABEL_ROWS), height - 1]


def _number(value: float, span: float) -> str:
    """Format a value with as many digits as distinguish it from its neighbours on the axis."""
    if abs(value) >= 1e12 or 0 < span < 1e-7:
        return f"{value:.4g}"
    return f"{value:,.{max(0, 2 - int(np.floor(np.log10(span))))}f}"


def _times(times: Sequence[str], across: int) -> str:
    """Return the line of axis labels: the first, the middle and the last time, as many as fit."""
    if len(times) < 2:
        return "".join(times)
    first, middle, last = times[0], times[len(times) // 2], times[-1]
    gap = across - len(first) - len(last)
    if gap < 1:
        return first
    if gap >= len(middle) + 4:
        return f"{first}{middle:^{gap}}{last}"
    return f"{first}{'':{gap}}{last}"
