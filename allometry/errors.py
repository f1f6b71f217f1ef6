"""The only error a user sees: what is wrong, and what to type about it."""

from collections.abc import Iterable
from difflib import get_close_matches


class AllometryError(Exception):
    """A mistake that the user can mend.

    `message` says what is wrong and where; `hint` says what to do about it. Where a Python call and the
    command line need different words, `hint` is for Python and `cli_hint` names flags and commands; else one
    `hint` serves both. The command line prints the message and `cli_hint`, without a traceback, and exits
    with 1.

    >>> error = AllometryError("no column is N", hint="columns={'N': 'params'}", cli_hint="--let N=params")
    >>> print(error)
    no column is N
      hint: columns={'N': 'params'}
    >>> error.cli_hint
    '--let N=params'
    """

    def __init__(self, message: str, *, hint: str | None = None, cli_hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.cli_hint = hint if cli_hint is None else cli_hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def unknown(kind: str, name: str, known: Iterable[str]) -> AllometryError:
    """Return the error for a name that no registry holds: the nearest known names first, then all of them.

    >>> print(unknown("law", "chinchila", ["kaplan", "chinchilla"]))
    unknown law 'chinchila'
      hint: did you mean 'chinchilla'? Known: chinchilla, kaplan
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return AllometryError(f"unknown {kind} {name!r}", hint=f"{guess}Known: {', '.join(names) or 'none'}")


def missing_extra(package: str, extra: str, purpose: str) -> AllometryError:
    """Return the error for an optional dependency that is not installed, with the line that installs it."""
    return AllometryError(
        f"{purpose} needs the package {package!r}, which is not installed",
        hint=f"pip install 'allometry[{extra}]'",
    )
