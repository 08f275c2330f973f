"""Format numbers for readers: four digits, a unit, a typographic minus sign; a dash if there is no number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from slimcnn.reporting.sections import Format, Value

NOTHING = "—"
"""Text for a number that is not finite."""

_COUNTS = ("", "k", "M", "G", "T")
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(value: float) -> str:
    """Format a count with four digits, in thousands, millions ...

    >>> count(640), count(853018), count(125485706), count(999960)
    ('640', '853.0 k', '125.5 M', '1.000 M')
    """
    return _scaled(value, _COUNTS)


def size(value: float) -> str:
    """Format a number of bytes, in powers of 1000.

    >>> size(3436544), size(120)
    ('3.437 MB', '120 B')
    """
    return _scaled(value, _SIZES)


def whole(value: float) -> str:
    """Format an integer with all digits.

    >>> whole(125485706)
    '125,485,706'
    """
    return f"{value:,}"


def percent(value: float) -> str:
    """Format a percentage with two decimals, without the percent sign.

    >>> percent(93.386), percent(float("nan"))
    ('93.39', '—')
    """
    return f"{value:.2f}" if math.isfinite(value) else NOTHING


def points(before: float, after: float) -> str:
    """Format the difference of two percentages after rounding each to two decimals.

    >>> points(93.39, 93.02), points(93.39, 93.4), points(50.0, 50.001)
    ('−0.37', '+0.01', '±0.00')
    """
    return signed(round(after, 2) - round(before, 2))


def signed(difference: float) -> str:
    """Format a difference of percentages, with its sign.

    >>> signed(-0.37), signed(0.0100001), signed(-0.001)
    ('−0.37', '+0.01', '±0.00')
    """
    if not math.isfinite(difference):
        return NOTHING
    text = f"{abs(difference):.2f}"
    return f"{'±' if text == '0.00' else '−' if difference < 0 else '+'}{text}"


def ratio(before: float, after: float) -> str:
    """Format after / before with two decimals, or two digits if it is below 0.1.

    >>> ratio(853018, 434213), ratio(1000.0, 4.2), ratio(0, 3)
    ('0.51', '0.0042', '—')
    """
    if not (math.isfinite(before) and math.isfinite(after)) or before == 0:
        return NOTHING
    value = after / before
    return f"{value:.2f}" if value == 0 or value >= 0.1 else f"{value:.2g}"


def milliseconds(value: float) -> str:
    """Format milliseconds, without the unit.

    >>> milliseconds(18.4213), milliseconds(0.08124), milliseconds(412.36)
    ('18.42', '0.0812', '412.4')
    """
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def small(value: float) -> str:
    """Format a number of any magnitude with three digits.

    >>> small(0.0125), small(-2.1e-15), small(-0.0), small(float("inf"))
    ('0.0125', '−2.1e−15', '0', '∞')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value + 0.0:.3g}".replace("-", "−") if math.isfinite(value) else NOTHING


def signed_small(difference: float) -> str:
    """Format a difference of numbers of any magnitude, with its sign and three digits.

    >>> signed_small(0.01278), signed_small(-2.1e-15), signed_small(0.0)
    ('+0.0128', '−2.1e−15', '±0')
    """
    text = small(abs(difference))
    return text if text == NOTHING else f"{'±' if text == '0' else '−' if difference < 0 else '+'}{text}"


def distance(value: float) -> str:
    """Format a distance between 0 and 1 with three decimals.

    >>> distance(0.0312), distance(float("nan"))
    ('0.031', '—')
    """
    return f"{value:.3f}" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds.

    >>> duration(4.13), duration(200.2), duration(3900.0)
    ('4.1 s', '3 min 20 s', '1 h 05 min')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shape(sizes: Sequence[int]) -> str:
    """Format a tensor's shape.

    >>> shape((16, 32, 32))
    '16 × 32 × 32'
    """
    return " × ".join(str(n) for n in sizes) or NOTHING


def plural(n: int, noun: str) -> str:
    """Format a count with its noun.

    >>> plural(1, "layer"), plural(1200, "layer")
    ('1 layer', '1,200 layers')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def short_name(name: str, limit: int = 24) -> str:
    """Shorten a layer's name to `limit` letters: outer modules become initials, then the middle is cut out.

    >>> short_name("layer1.0.conv1"), short_name("features.denseblock1.denselayer12.conv2")
    ('layer1.0.conv1', 'f.d1.denselayer12.conv2')
    >>> short_name("a_module_with_a_very_long_name")
    'a_module_wi…ry_long_name'
    """
    name = " ".join(name.split())
    parts = name.split(".")
    for index in range(len(parts) - 1):
        if len(".".join(parts)) <= limit:
            break
        number = re.search(r"\d*$", parts[index])
        digits = number.group() if number else ""
        parts[index] = digits if digits == parts[index] else parts[index][:1] + digits
    short = ".".join(parts)
    if len(short) <= limit:
        return short
    tail = limit // 2
    return f"{short[: limit - tail - 1]}…{short[-tail:]}"


_WRITERS: dict[Format, Callable[[Any], str]] = {
    "count": count,
    "exact": whole,
    "bytes": size,
    "percent": percent,
    "points": signed,
    "share": distance,
    "small": small,
    "signed": signed_small,
    "seconds": duration,
    "milliseconds": milliseconds,
    "shape": shape,
}


def write(value: Value, form: Format) -> str:
    """Format a table's value in its column's format; an empty string for None.

    >>> write(0.5, "share"), write(1234567, "count"), write((16, 8, 8), "shape"), write(None, "percent")
    ('0.500', '1.235 M', '16 × 8 × 8', '')
    """
    if value is None:
        return ""
    if isinstance(value, str) or form not in _WRITERS:
        return value if isinstance(value, str) else small(value) if isinstance(value, float) else str(value)
    if isinstance(value, tuple) != (form == "shape"):
        raise ValueError(f"cannot write {value!r} as {form}")
    if isinstance(value, float) and not math.isfinite(value) and form in ("count", "exact", "bytes"):
        return NOTHING
    return _WRITERS[form](value)


def _scaled(value: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(value) < (1000 if unit == units[0] else 999.95):
            break
        value /= 1000
    else:
        unit = units[-1]
    return f"{value:g} {unit}".strip() if unit == units[0] else f"{value:#.4g} {unit}"


def capital(words: str) -> str:
    """Begin words with a capital letter, unless the second letter is one.

    >>> capital("mean IoU"), capital("mAP@50")
    ('Mean IoU', 'mAP@50')
    """
    return words if words[1:2].isupper() else f"{words[:1].upper()}{words[1:]}"
