"""The small drawing in each row of the table of constants: our interval, and where the papers' values
lie.
"""

from __future__ import annotations

import math

from markupsafe import Markup

from allometry.report.content import Constant

WIDTH, HEIGHT, MARGIN = 150, 22, 6


def strip(constant: Constant) -> Markup:
    """Draw an inline SVG: a bar for our interval, a dot for our value, a tick for each published value.

    The axis spans all of them; it is logarithmic where they are positive and span more than a factor of
    thirty. Empty where our value is not finite.
    """
    published = [v for v in constant.published.values() if math.isfinite(v)]
    bounds = [v for v in (constant.low, constant.high) if math.isfinite(v)]
    if not math.isfinite(constant.ours):
        return Markup("")
    values = [constant.ours, *bounds, *published]
    logarithmic = min(values) > 0 and max(values) / min(values) > 30
    scaled = [math.log(v) if logarithmic else v for v in values]
    low, span = min(scaled), (max(scaled) - min(scaled)) or 1.0

    def x(value: float) -> str:
        where = ((math.log(value) if logarithmic else value) - low) / span
        return f"{MARGIN + where * (WIDTH - 2 * MARGIN):.1f}"

    middle = HEIGHT / 2
    parts = [
        Markup('<line class="strip-axis" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, middle, middle)
    ]
    if len(bounds) == 2:
        parts.append(
            Markup('<line class="strip-bar" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                x(bounds[0]), x(bounds[1]), middle, middle
            )
        )
    for paper, value in constant.published.items():
        if math.isfinite(value):
            parts.append(
                Markup(
                    '<line class="strip-paper" x1="{0}" x2="{0}" y1="3" y2="{1}">'
                    "<title>{2}: {3:.4g}</title></line>"
                ).format(x(value), HEIGHT - 3, paper, value)
            )
    parts.append(Markup('<circle class="strip-dot" cx="{}" cy="{}" r="4"/>').format(x(constant.ours), middle))
    return Markup(
        '<svg class="strip" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true">{2}</svg>'
    ).format(WIDTH, HEIGHT, Markup("").join(parts))
