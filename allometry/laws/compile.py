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
    """Return the law and its exact gradient as NumPy code (symbolic differentiation, shared sub-expressions)."""
    symbols = law.symbols
    arguments = [symbols[n] for n in (*law.inputs, *law.parameter_names)]
    both = _value_and_gradient(law, arguments, law.formula, [symbols[n] for n in law.parameter_names], {})
    if law.bracket:
        return Compiled(value=lambda *a: both(*a)[0], gradient=lambda *a: both(*a)[1:])
    return Compiled(value=code(arguments, law.formula), gradient=lambda *a: both(*a)[1:])


def _value_and_gradient(
    law: Law,
    arguments: list[sp.Symbol],
    expression: sp.Expr,
    variables: list[sp.Symbol],
    substitution: dict[sp.Symbol, sp.Expr],
) -> Code:
    """Return code for [output, its derivative by each variable]; an implicit law's are those of its solution."""
    gradient = [_smooth(expression.diff(v)) for v in variables]
    if law.bracket is None:
        return code(arguments, [expression, *gradient])
    output = law.symbols[law.output]
    slope = expression.diff(output)
    equation = code([*arguments, output], [expression, slope])
    derivatives = code([*arguments, output], [slope, *gradient])
    low, high = (law.parse(b).subs(substitution, simultaneous=True) for b in law.bracket)
    ends = code(arguments, [low, high])

    def solved(*values: Any) -> list[Any]:
        root = solve_between(lambda x: equation(*values, x), ends(*values), values)
        slope_there, *by_variable = derivatives(*values, root)
        return [root, *(-d / slope_there for d in by_variable)]

    return solved


def solve_between(function: Code, ends: tuple[Any, Any], like: tuple[Any, ...]) -> Any:
    """Find the root between two `ends` of an increasing function that returns (value, slope), elementwise.

    The root has the shape that the arrays of `like` broadcast to.

    Newton's method kept inside a shrinking bracket: as quick as Newton, as safe as bisection.
    """
    import numpy as np

    shape = np.broadcast_shapes(*(np.shape(v) for v in like))
    low, high = (np.broadcast_to(np.asarray(v, dtype=float), shape).copy() for v in ends)
    root = 0.5 * (low + high)
    for _ in range(100):
        value, slope = function(root)
        low, high = np.where(value < 0, root, low), np.where(value < 0, high, root)
        newton = root - value / slope
        inside = (newton > low) & (newton < high)
        moved = np.where(inside, newton, 0.5 * (low + high))
        settled = np.abs(moved - root) <= 1e-14 * np.abs(moved)
        root = moved
        if np.all(settled | ~np.isfinite(root)):
            break
    return root


def code(arguments: list[sp.Symbol], expressions: sp.Expr | list[sp.Expr]) -> Code:
    """Return NumPy code for one expression, or for a list of them, with common sub-expressions computed once."""
    import sympy as sp

    function: Code = sp.lambdify(arguments, expressions, modules="numpy", cse=True)
    return function


def _smooth(expression: sp.Expr) -> sp.Expr:
    """Replace the second derivatives of Min and Max by zero, which they are except at the kink."""
    import sympy as sp

    return expression.replace(sp.DiracDelta, lambda *_: sp.Integer(0)).replace(
        lambda e: isinstance(e, sp.Heaviside), lambda e: sp.Heaviside(e.args[0], sp.Rational(1, 2))
    )


@dataclass(frozen=True)
class Internal:
    """A law in the coordinates of the fit.

    `value_and_gradient(x..., centre..., fixed..., z...)` returns the law's output and its derivatives by
    each z. `natural(centre..., fixed..., z...)` returns all natural parameters, in the law's order.
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
    coordinates = {symbols[n]: sp.exp(z[n]) if law.parameter(n).logarithmic else z[n] for n in free}
    natural = {}
    for p in law.parameters:
        own: sp.Expr = symbols[p.name]
        if p.name in free and p.anchor:
            own = law.parse(p.anchor).subs(centre).subs(leaders)
        natural[symbols[p.name]] = own
    natural |= {a: natural[b] for a, b in leaders.items()}
    natural = {symbol: expression.subs(coordinates) for symbol, expression in natural.items()}
    substitution = {**inputs, **natural}
    output = law.formula.subs(substitution, simultaneous=True)
    constants = [*centre.values(), *(symbols[n] for n in fixed)]
    variables = [z[n] for n in free]
    arguments = [*offset.values(), *constants, *variables]
    return Internal(
        free=free,
        fixed=fixed,
        value_and_gradient=_value_and_gradient(law, arguments, output, variables, substitution),
        natural=code([*constants, *variables], [natural[symbols[n]] for n in law.parameter_names]),
    )
