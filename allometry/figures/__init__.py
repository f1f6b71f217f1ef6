"""Figures: functions from runs and fits to a chart with its numbers and its caption. They never import
torch.

Each returns a `theme.Figure`; `theme.save` writes any of them as HTML, SVG, PNG, PDF or JSON.
"""

from allometry.figures.curves import learning_curves
from allometry.figures.fits import fit_chart, fit_figure, power_law, predictions, residuals
from allometry.figures.several import several
from allometry.figures.surface import isoflop, isoflop_slices, surface, valleys
from allometry.figures.theme import save

__all__ = [
    "fit_chart",
    "fit_figure",
    "isoflop",
    "isoflop_slices",
    "learning_curves",
    "power_law",
    "predictions",
    "residuals",
    "save",
    "several",
    "surface",
    "valleys",
]
