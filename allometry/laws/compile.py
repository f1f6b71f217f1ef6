"""From a law's formula to NumPy code: values, gradients and curvature, in the fit's own coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sympy as sp

    from allometry.laws.law import Law

Code = Callable[..., Any]


@dataclass(frozen=True)
class Compiled:
    """NumPy functions of (inputs..., parameters...) in the law's own order."""

    value: Code
    gradient: Code


@lru_cache(maxsize=128)
def compiled(law: Law) -> Compiled:
    """The law and its exact gradient as NumPy code (symbolic differentiation, common sub-expressions shared)."""
    symbols = law.symbols
    arguments = [symbols[n] for n in (*law.inputs, *law.parameter_names)]
    gradient = [_smooth(law.formula.diff(symbols[n])) for n in law.parameter_names]
    return Compiled(value=code(arguments, law.formula), gradient=code(arguments, gradient))


def code(arguments: list[sp.Symbol], expressions: sp.Expr | list[sp.Expr]) -> Code:
    """NumPy code for one expression, or for a list of them, with common sub-expressions computed once."""
    import sympy as sp

    function: Code = sp.lambdify(arguments, expressions, modules="numpy", cse=True)
    return function


def _smooth(expression: sp.Expr) -> sp.Expr:
    """Derivatives of Min and Max leave step functions; their own derivatives are zero except at the kink."""
    import sympy as sp

    return expression.replace(sp.DiracDelta, lambda *_: sp.Integer(0)).replace(
        lambda e: isinstance(e, sp.Heaviside), lambda e: sp.Heaviside(e.args[0], sp.Rational(1, 2))
    )
