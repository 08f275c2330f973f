"""The number by which networks are judged: its name, its unit, and which values are better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The number by which networks of a task are judged."""

    name: str
    """As in tables and sentences: top-1, mean IoU."""
    unit: str = "%"
    """Empty for a number without a unit."""
    higher_is_better: bool = True

    def gain(self, before: float, after: float) -> float:
        """Return how much better a value is, in the metric's unit; negative if it is worse.

        >>> Metric("top-1").gain(90.0, 92.0), Metric("error", higher_is_better=False).gain(3.0, 2.0)
        (2.0, 1.0)
        """
        return after - before if self.higher_is_better else before - after

    def number(self, value: float) -> str:
        """Return a value without its unit: a percentage with two decimals, any other number with three digits.

        >>> Metric("top-1").number(91.239), Metric("error", unit="").number(0.01278)
        ('91.24', '0.0128')
        """
        return f"{value:.2f}" if self.unit == "%" else f"{value:.3g}"

    def written(self, value: float) -> str:
        """Return a value with its unit.

        >>> Metric("top-1").written(91.239), Metric("depth error", unit="m").written(0.5)
        ('91.24 %', '0.5 m')
        """
        return f"{self.number(value)} {self.unit}".rstrip()

    def difference(self, size: float) -> str:
        """Return the size of a difference with its unit; percentages differ by points.

        >>> Metric("top-1").difference(1), Metric("top-1").difference(0.5), Metric("error", unit="").difference(0.1)
        ('1 point', '0.5 points', '0.1')
        """
        unit = ("point" if size == 1 else "points") if self.unit == "%" else self.unit
        return f"{size:g} {unit}".rstrip()

    def measured_difference(self, size: float) -> str:
        """Return the size of a measured difference, rounded as `number` rounds, with its unit.

        >>> Metric("top-1").measured_difference(0.525001), Metric("error", unit="m").measured_difference(0.01278)
        ('0.53 points', '0.0128 m')
        """
        return f"{self.number(size)} {'points' if self.unit == '%' else self.unit}".rstrip()
