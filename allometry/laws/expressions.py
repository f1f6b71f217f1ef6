"""Columns computed from columns: "C/(6*N)" is arithmetic, read by a grammar of our own and never by eval."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from allometry.errors import AllometryError, unknown

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
_HINT = (
    "arithmetic of column names, numbers, + - * / ** and log, log10, log2, exp, sqrt, abs, min, max; "
    "put names with spaces between backticks, like `Training FLOP`/(6*N)"
)


def names_in(text: str) -> list[str]:
    """The column names that an expression uses, each once, in order."""
    tree, quoted = _parse(text)
    calls = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in calls]
    return list(dict.fromkeys(quoted.get(n, n) for n in names))


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an arithmetic expression over `values` (numbers, arrays or columns by name).

    Raises AllometryError for anything but arithmetic and for unknown names; division by zero gives inf or
    nan.
    """
    tree, quoted = _parse(text)
    try:
        with np.errstate(all="ignore"):
            return _value(tree, {**values}, quoted, text)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        what = "it is too long" if isinstance(error, RecursionError) else str(error)
        raise AllometryError(f"cannot compute {text[:80]!r}: {what[:120]}", hint=_HINT) from None


def _parse(text: str) -> tuple[ast.expr, dict[str, str]]:
    quoted: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = f"_column{len(quoted)}_"
        quoted[name] = match[1]
        return name

    plain = re.sub(r"`([^`]+)`", placeholder, text).replace("^", "**")
    try:
        return ast.parse(plain.strip(), mode="eval").body, quoted
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise AllometryError(f"cannot read the expression {shown!r}", hint=_HINT) from None


def _value(node: ast.expr, values: dict[str, Any], quoted: dict[str, str], text: str) -> Any:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return float(node.value)
    if isinstance(node, ast.Name):
        name = quoted.get(node.id, node.id)
        if name not in values:
            raise unknown(f"column in {text!r}:", name, values)
        return values[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = (_value(side, values, quoted, text) for side in (node.left, node.right))
        return _BINARY[type(node.op)](np.asarray(left, dtype=float), np.asarray(right, dtype=float))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand, values, quoted, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise unknown(f"function in {text!r}:", node.func.id, _FUNCTIONS)
        return _FUNCTIONS[node.func.id](*(_value(a, values, quoted, text) for a in node.args))
    raise AllometryError(
        f"the expression {text[:80]!r} has something other than arithmetic in it", hint=_HINT
    )
