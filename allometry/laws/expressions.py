"""Columns computed from columns: "C/(6*N)" is arithmetic, read by a grammar of our own and never by eval."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from allometry.core.errors import AllometryError, unknown

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
    tree, quoted = _parse(text)
    calls = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in calls]
    return list(dict.fromkeys(quoted.get(n, n) for n in names))


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """Return the value of an arithmetic expression over `values` (numbers, arrays or columns by name).

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
