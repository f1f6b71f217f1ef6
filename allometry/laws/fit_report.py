"""A fit as text that a careful statistician wants to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allometry.laws.result import FitResult


def render(result: FitResult) -> str:
    """The fit as text: estimates with intervals, how well they are known, what limits them."""
    lines = [f"{result.law.title}: {result.law.output} = {result.law.expression}", f"status: {result.status}"]
    for name, value in result.parameters.items():
        low, high = result.interval(name)
        lines.append(f"  {name:10s} {value:12.6g}   [{low:.6g}, {high:.6g}]")
    return "\n".join(lines)
