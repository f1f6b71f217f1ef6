"""Laws: formulas, fits and what may be concluded from them. It never imports torch."""

from allometry.laws.law import Law, Parameter, Published
from allometry.laws.zoo import all_laws, get

__all__ = ["Law", "Parameter", "Published", "all_laws", "get"]
