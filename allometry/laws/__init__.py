"""Laws: formulas, fits and what may be concluded from them. It never imports torch."""
