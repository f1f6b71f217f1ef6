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


@dataclass(frozen=True)
class Internal:
    """A law in the coordinates of the fit.

    `value_and_gradient(x..., centre..., fixed..., z...)` returns the law's output and its derivatives by each z.
    `natural(centre..., fixed..., z...)` returns all natural parameters, in the law's order.
    """

    free: tuple[str, ...]
    fixed: tuple[str, ...]
    value_and_gradient: Code
    natural: Code


@lru_cache(maxsize=256)
def internal(law: Law, fixed: tuple[str, ...], tied: tuple[tuple[str, str], ...]) -> Internal:
    """Compile a law for fitting: centred log inputs, anchored amounts, logarithms of positive parameters."""
    import sympy as sp

    symbols = law.symbols
    leaders = {symbols[a]: symbols[b] for a, b in tied}
    free = tuple(n for n in law.parameter_names if n not in fixed and n not in dict(tied))
    centre = {symbols[n]: sp.Symbol(f"{n}_centre", positive=True) for n in law.inputs}
    offset = {n: sp.Symbol(f"x_{n}", real=True) for n in law.inputs}
    z = {n: sp.Symbol(f"z_{n}", real=True) for n in free}

    inputs = {
        symbols[n]: offset[n] if n in law.linear else centre[symbols[n]] * sp.exp(offset[n])
        for n in law.inputs
    }
    coordinates = {symbols[n]: sp.exp(z[n]) if law.parameter(n).positive else z[n] for n in free}
    natural = {}
    for p in law.parameters:
        own: sp.Expr = symbols[p.name]
        if p.name in free and p.anchor:
            own = law.parse(p.anchor).subs(centre)
        natural[symbols[p.name]] = own.subs(leaders) if p.name in free else own
    natural |= {a: natural[b] for a, b in leaders.items()}
    output = law.formula.subs(inputs).subs(natural, simultaneous=True).subs(coordinates)
    gradient = [_smooth(output.diff(z[n])) for n in free]
    constants = [*centre.values(), *(symbols[n] for n in fixed)]
    variables = [z[n] for n in free]
    return Internal(
        free=free,
        fixed=fixed,
        value_and_gradient=code([*offset.values(), *constants, *variables], [output, *gradient]),
        natural=code(
            [*constants, *variables], [natural[symbols[n]].subs(coordinates) for n in law.parameter_names]
        ),
    )
