"""A law is its formula: gradient, LaTeX and NumPy code are derived from one line of SymPy.

The compiled code gives values, gradients and curvature, also in the coordinates that a fit works in. Columns of a
table can be computed from others: "C/(6*N)" is arithmetic, read by a grammar of our own and never by eval."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.core.env import cache_dir, package_version
from allometry.core.errors import AllometryError, unknown
from allometry.core.files import write_bytes

if TYPE_CHECKING:
    import sympy as sp
    from numpy.typing import ArrayLike, NDArray

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
}
_ARGUMENTS = {"min": 2, "max": 2}
"""Arguments of a function, where it is not one."""

_LONGEST = 10_000
"""Characters of an expression, and terms that it may nest: beyond, reading it would exhaust the stack."""

_DEEPEST = 200

_HINT = (
    "arithmetic of column names, numbers, + - * / ** and log, log10, log2, exp, sqrt, abs, min, max; "
    "put names with spaces between backticks, like `Training FLOP`/(6*N)"
)


def names_in(text: str) -> list[str]:
    """Return the column names that an expression uses, each once, in order."""
    tree, quoted = _arithmetic(text)
    calls = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in calls]
    return list(dict.fromkeys(quoted.get(n, n) for n in names))


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """Return the value of an arithmetic expression over `values` (numbers, arrays or columns by name).

    Raises AllometryError for anything but arithmetic and for unknown names; division by zero gives inf or
    nan.
    """
    tree, quoted = _arithmetic(text)
    try:
        with np.errstate(all="ignore"):
            return _value(tree, {**values}, quoted, text)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        what = "it is too long" if isinstance(error, RecursionError) else str(error)
        raise AllometryError(f"cannot compute {text[:80]!r}: {what[:120]}", hint=_HINT) from None


def _arithmetic(text: str) -> tuple[ast.expr, dict[str, str]]:
    quoted: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = f"_column{len(quoted)}_"
        quoted[name] = match[1]
        return name

    if len(text) > _LONGEST:
        raise AllometryError(f"an expression has {len(text):,} characters", hint=_HINT)
    plain = re.sub(r"`([^`]+)`", placeholder, text).replace("^", "**")
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise AllometryError(f"cannot read the expression {_shown(text)}", hint=_HINT) from None
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise AllometryError(f"the expression {_shown(text)} has too many terms", hint=_HINT)
    return tree, quoted


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _value(node: ast.expr, values: dict[str, Any], quoted: dict[str, str], text: str) -> Any:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        try:
            return float(node.value)
        except OverflowError:
            raise AllometryError(f"a number in {_shown(text)} is too large", hint=_HINT) from None
    if isinstance(node, ast.Name):
        name = quoted.get(node.id, node.id)
        if name not in values:
            raise unknown(f"column in {_shown(text)}:", name, values)
        return values[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = (_number(side, values, quoted, text) for side in (node.left, node.right))
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_number(node.operand, values, quoted, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise unknown(f"function in {_shown(text)}:", node.func.id, _FUNCTIONS)
        count = _ARGUMENTS.get(node.func.id, 1)
        if len(node.args) != count:
            raise AllometryError(
                f"{node.func.id} takes {count} argument{'s' if count > 1 else ''}, in {_shown(text)} it has "
                f"{len(node.args)}",
                hint=_HINT,
            )
        return _FUNCTIONS[node.func.id](*(_number(a, values, quoted, text) for a in node.args))
    raise AllometryError(f"{_shown(text)} has something other than arithmetic in it", hint=_HINT)


def _number(node: ast.expr, values: dict[str, Any], quoted: dict[str, str], text: str) -> Any:
    """Return the value of a part of an expression as numbers; AllometryError for a column of text."""
    value = _value(node, values, quoted, text)
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        name = quoted.get(node.id, node.id) if isinstance(node, ast.Name) else "a part"
        raise AllometryError(
            f"{name!r} in {_shown(text)} holds something other than numbers", hint=_HINT
        ) from None


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a law.

    A `positive` parameter is fitted as its logarithm, unless it is a `floor`: a floor may be zero, and is
    fitted as it is with a bound there. `anchor` says what the parameter is in terms of an anchored value
    (written with the parameter's own name) at the centre of the data: "A*N**alpha" means that the fit works
    with A/N0^alpha, the term's value at the geometric mean N0 of N, which is of the order of the loss and
    nearly uncorrelated with alpha. `start` is the range from which starts are drawn: of the anchored value,
    in units of the output's typical value (its largest, for a parameter that is an `upper` bound of it; its
    smallest, for a floor), where `relative`; else of the parameter itself.
    """

    name: str
    meaning: str
    positive: bool = True
    floor: bool = False
    low: float = 0.0
    high: float = math.inf
    start: tuple[float, float] = (0.02, 1.0)
    relative: bool = False
    upper: bool = False
    anchor: str | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether the fit works with the parameter's logarithm."""
        return self.positive and not self.floor

    def __post_init__(self) -> None:
        assert self.low < self.high, f"{self.name}: empty bounds"
        assert not self.positive or self.low >= 0, f"{self.name}: a positive parameter with a negative bound"
        assert not (self.floor and self.anchor), f"{self.name}: a floor needs no anchor"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Constants that a paper printed for a law, with the units they are printed in and where.

    `ranges` holds the smallest and largest value of inputs among the paper's runs, where it says.
    """

    name: str
    values: Mapping[str, float]
    source: str
    units: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __getitem__(self, parameter: str) -> float:
        return self.values[parameter]

    def keys(self) -> Any:
        """Return the names of the parameters, so that `dict(published)` and `**published` work."""
        return self.values.keys()

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Law:
    """A scaling law: `output = expression(inputs; parameters)`.

    `expression` is SymPy text with the paper's symbols; `where` defines abbreviations used in it, in order
    (each may use the ones before it). `inputs` maps each input's symbol to its meaning and unit; those in
    `linear` may be zero or negative, all others must be positive. `source` names paper and equation.

    `derived` names quantities that people quote from the law, as arithmetic of its parameters.

    `contains` names laws that are special cases, or nearly, each with this law's parameters in terms of theirs, of the
    inputs at the centre of the data, and of `highest`, the largest output. A fit starts from their optima too.

    A law with a `bracket` is implicit: `expression` = 0 defines the output, increasing in it between the two
    expressions of the bracket (in the parameters), which it is solved for.
    """

    name: str
    title: str
    expression: str
    inputs: Mapping[str, str]
    parameters: tuple[Parameter, ...]
    source: str
    output: str = "L"
    output_meaning: str = "loss, nats per token"
    where: Mapping[str, str] = field(default_factory=dict)
    linear: frozenset[str] = frozenset()
    published: Mapping[str, Published] = field(default_factory=lambda: MappingProxyType({}))
    bracket: tuple[str, str] | None = None
    derived: Mapping[str, str] = field(default_factory=dict)
    contains: tuple[tuple[str, Mapping[str, str]], ...] = ()
    note: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, for another process: read-only views of mappings cannot travel."""
        return {
            name: dict(value) if isinstance(value, MappingProxyType) else value
            for name, value in vars(self).items()
        }

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of `gradient`'s last axis."""
        return tuple(p.name for p in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """Return the parameter of that name; raise AllometryError with the nearest names if there is none."""
        for p in self.parameters:
            if p.name == name:
                return p
        raise unknown(f"parameter of the law {self.name!r}", name, self.parameter_names)

    @cached_property
    def symbols(self) -> dict[str, sp.Symbol]:
        """SymPy symbols of inputs, parameters and output (positive where the law says so)."""
        import sympy as sp

        marks = {name: name not in self.linear for name in self.inputs}
        marks |= {p.name: p.positive for p in self.parameters}
        marks[self.output] = True
        return {
            n: sp.Symbol(n, positive=True) if pos else sp.Symbol(n, real=True) for n, pos in marks.items()
        }

    @cached_property
    def formula(self) -> sp.Expr:
        """The right-hand side as a SymPy expression in `symbols`."""
        return self.parse(self.expression)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex}$"

    def parse(self, text: str) -> sp.Expr:
        """Parse SymPy text in the law's own symbols (from the registry, never from a user) to an expression."""
        names: dict[str, Any] = dict(self.symbols)
        for name, definition in self.where.items():
            names[name] = _parse(definition, names)
        return _parse(text, names)

    @cached_property
    def latex(self) -> str:
        """The whole equation in LaTeX as it is written, with the abbreviations of `where` kept and
        explained.
        """
        import sympy as sp

        names: dict[str, Any] = {**self.symbols, **{n: sp.Symbol(n, positive=True) for n in self.where}}

        def written(text: str) -> str:
            return str(sp.latex(sp.sympify(text, locals=names, evaluate=False), order="none"))

        left = "0" if self.bracket else sp.latex(names[self.output])
        lines = [f"{left} = {written(self.expression)}"]
        lines += [f"{sp.latex(names[n])} = {written(text)}" for n, text in self.where.items()]
        return r",\quad ".join(lines)

    def predict(self, params: Mapping[str, ArrayLike], /, **inputs: ArrayLike) -> NDArray[np.float64]:
        """Return the law's output at `inputs`, which broadcast against each other and against the parameters.

        `params` maps every parameter's name to a number, or to an array (samples as a column (K, 1) against
        inputs of shape (n,) give (K, n)). Raises AllometryError for missing or unknown names.
        """

        arguments = self._arguments(params, inputs)
        with np.errstate(all="ignore"):
            value = compiled(self).value(*arguments)
        return np.asarray(
            np.broadcast_to(value, np.broadcast_shapes(*(a.shape for a in arguments))), dtype=float
        )

    def gradient(self, params: Mapping[str, ArrayLike], /, **inputs: ArrayLike) -> NDArray[np.float64]:
        """Return the exact derivatives of `predict` by each parameter, on a new last axis in the order of
        `parameters`.
        """

        arguments = self._arguments(params, inputs)
        shape = np.broadcast_shapes(*(a.shape for a in arguments))
        with np.errstate(all="ignore"):
            columns = compiled(self).gradient(*arguments)
        return np.stack([np.broadcast_to(np.asarray(c, dtype=float), shape) for c in columns], axis=-1)

    def _arguments(
        self, params: Mapping[str, ArrayLike], inputs: Mapping[str, ArrayLike]
    ) -> list[NDArray[np.float64]]:
        for kind, given, known in (
            ("input", inputs, tuple(self.inputs)),
            ("parameter", params, self.parameter_names),
        ):
            for name in given.keys():  # noqa: SIM118 - Published has keys() but is not a dict
                if name not in known:
                    raise unknown(f"{kind} of the law {self.name!r}", name, known)
            missing = [n for n in known if n not in set(given.keys())]
            if missing:
                raise AllometryError(
                    f"the law {self.name!r} needs the {kind} {', '.join(missing)}",
                    hint=f"its {kind}s are {', '.join(known)}",
                )
        values = [inputs[n] for n in self.inputs] + [params[n] for n in self.parameter_names]
        return [np.asarray(v, dtype=float) for v in values]

    def __repr__(self) -> str:
        return f"<Law {self.name}: {self.output} = {self.expression}>"

    def __hash__(self) -> int:
        return hash((self.name, self.expression))


def _parse(text: str, names: Mapping[str, Any]) -> sp.Expr:
    """Parse SymPy text of our own registry (never a user's) to an expression; E, N, S, … are symbols, not
    SymPy's.
    """
    import sympy as sp

    expression = sp.sympify(text, locals=dict(names))
    strangers = {s.name for s in expression.free_symbols} - {getattr(v, "name", k) for k, v in names.items()}
    known = set().union(*(getattr(v, "free_symbols", set()) for v in names.values())) if names else set()
    strangers -= {s.name for s in known}
    assert not strangers, f"undefined symbols {sorted(strangers)} in {text!r}"
    return expression


Code = Callable[..., Any]


@dataclass(frozen=True)
class Compiled:
    """NumPy functions of (inputs..., parameters...) in the law's own order."""

    value: Code
    gradient: Code


@lru_cache(maxsize=128)
def compiled(law: Law) -> Compiled:
    """Return the law and its exact gradient as NumPy code (symbolic differentiation, shared sub-expressions)."""

    def derived() -> dict[str, str]:
        symbols = law.symbols
        arguments = [symbols[n] for n in (*law.inputs, *law.parameter_names)]
        sources = _value_and_gradient(
            law, arguments, law.formula, [symbols[n] for n in law.parameter_names], {}
        )
        return sources if law.bracket else {**sources, "value": code(arguments, law.formula)}

    sources = _kept(law, (), derived)
    both = _assembled(sources)
    value = (lambda *a: both(*a)[0]) if law.bracket else _function(sources["value"])
    return Compiled(value=value, gradient=lambda *a: both(*a)[1:])


def _value_and_gradient(
    law: Law,
    arguments: list[sp.Symbol],
    expression: sp.Expr,
    variables: list[sp.Symbol],
    substitution: dict[sp.Symbol, sp.Expr],
) -> dict[str, str]:
    """Return source code for [output, its derivative by each variable]; an implicit law's parts of it."""
    gradient = [_smooth(expression.diff(v)) for v in variables]
    if law.bracket is None:
        return {"both": code(arguments, [expression, *gradient])}
    output = law.symbols[law.output]
    slope = expression.diff(output)
    low, high = (law.parse(b).subs(substitution, simultaneous=True) for b in law.bracket)
    return {
        "equation": code([*arguments, output], _in_logarithms(expression, output)),
        "derivatives": code([*arguments, output], [slope, *gradient]),
        "ends": code(arguments, [low, high]),
    }


def _in_logarithms(expression: sp.Expr, output: sp.Symbol) -> list[sp.Expr]:
    """Return an equation and its slope in the output, as log P - log Q where it says P - Q = 0: much straighter."""
    import sympy as sp

    negative = [term for term in sp.Add.make_args(expression) if term.could_extract_minus_sign()]
    left, right = expression - sp.Add(*negative), -sp.Add(*negative)
    straight = sp.expand_log(sp.log(left), force=True) - sp.expand_log(sp.log(right), force=True)
    return [straight, straight.diff(output)]


def _assembled(sources: Mapping[str, str]) -> Code:
    """Return the function of `_value_and_gradient`; an implicit law's derivatives are those of its solution."""
    if "both" in sources:
        return _function(sources["both"])
    equation, derivatives, ends = (_function(sources[part]) for part in ("equation", "derivatives", "ends"))

    def solved(*values: Any) -> list[Any]:
        root = solve_between(lambda x: equation(*values, x), ends(*values), values)
        slope_there, *by_variable = derivatives(*values, root)
        return [root, *(-d / slope_there for d in by_variable)]

    return solved


def _kept(law: Law, more: tuple[Any, ...], derive: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return the source code that `derive` makes of a law, from the cache where it was made before.

    SymPy takes a second to load and longer to derive a law. What the code depends on is in its file's name: the
    law, SymPy's version and this file.
    """
    parts = [(p.name, p.positive, p.floor, p.anchor) for p in law.parameters]
    what = (law.expression, [*law.where.items()], [*law.inputs], sorted(law.linear), law.output, law.bracket)
    key = hashlib.sha256(_own_text())
    key.update(repr((*what, parts, more, package_version("sympy"))).encode())
    try:
        path = cache_dir("laws") / f"{key.hexdigest()[:24]}.json"
        sources = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(sources, dict) and all(isinstance(text, str) for text in sources.values()):
            return sources
    except (OSError, ValueError):
        pass  # not there, or damaged
    except AllometryError:
        return derive()  # no cache folder: it only saves time
    sources = derive()
    with suppress(OSError, AllometryError):
        write_bytes(path, json.dumps(sources).encode())
    return sources


@cache
def _own_text() -> bytes:
    return Path(__file__).read_bytes()


def _function(source: str) -> Code:
    """Return the function that a source text from `code` defines, in NumPy's names."""
    names = {**vars(np), "reduce": reduce}  # what the code of Min and Max uses
    exec(compile(source, "<law>", "exec"), names)
    function: Code = names["_lambdifygenerated"]
    return function


def solve_between(function: Code, ends: tuple[Any, Any], like: tuple[Any, ...]) -> Any:
    """Find the root between two `ends` of an increasing function that returns (value, slope), elementwise.

    The root has the shape that the arrays of `like` broadcast to.

    Newton's method kept inside a shrinking bracket: as quick as Newton, as safe as bisection. The steps are taken in
    t = log((root - low)/(high - root)), so that a root at an end is approached as quickly as one in the middle.
    """
    shape = np.broadcast_shapes(*(np.shape(v) for v in like))
    first, last = (np.broadcast_to(np.asarray(v, dtype=float), shape) for v in ends)
    width = last - first
    low, high, t = np.full(shape, -40.0), np.full(shape, 40.0), np.zeros(shape)
    root = first + 0.5 * width
    for _ in range(100):
        value, slope = function(root)
        low, high = np.where(value < 0, t, low), np.where(value < 0, high, t)
        share = 1 / (1 + np.exp(-t))
        newton = t - value / (slope * width * share * (1 - share))
        inside = (newton > low) & (newton < high)
        arrived = np.abs(value) <= 1e-14 * np.abs(root * slope)  # a step of less than the rounding error
        t = np.where(arrived, t, np.where(inside, newton, 0.5 * (low + high)))
        moved = first + width / (1 + np.exp(-t))
        settled = arrived | (np.abs(moved - root) <= 1e-14 * np.abs(moved))
        root = moved
        if np.all(settled | ~np.isfinite(root)):
            break
    return root


def code(arguments: list[sp.Symbol], expressions: sp.Expr | list[sp.Expr]) -> str:
    """Return NumPy code for one expression, or for a list of them, with common sub-expressions computed once."""
    import sympy as sp

    return inspect.getsource(sp.lambdify(arguments, expressions, modules="numpy", cse=True))


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
    free = tuple(n for n in law.parameter_names if n not in fixed and n not in dict(tied))
    sources = _kept(law, (fixed, tied), lambda: _coordinates(law, free, fixed, tied))
    return Internal(
        free=free,
        fixed=fixed,
        value_and_gradient=_assembled(sources),
        natural=_function(sources["natural"]),
    )


def _coordinates(
    law: Law, free: tuple[str, ...], fixed: tuple[str, ...], tied: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    """Derive the source code of `internal`."""
    import sympy as sp

    symbols = law.symbols
    leaders = {symbols[a]: symbols[b] for a, b in tied}
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
    return {
        **_value_and_gradient(law, arguments, output, variables, substitution),
        "natural": code([*constants, *variables], [natural[symbols[n]] for n in law.parameter_names]),
    }
