"""The command line: parse, call, print. Each command lives in a file of this package and is imported when it is used;
unknown ones are answered with the nearest known names.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from allometry.core import plugins
from allometry.core.errors import AllometryError, extra_of, missing_extra, printable, unknown

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("study", "Run a study: plan it, train what is missing, fit, report."),
    "sweep": (
        "sweep",
        "Train a grid of your own and read its laws: families, sizes, any setting as an axis.",
    ),
    "report": ("study", "Write the report of a study from the runs in the store."),
    "watch": ("study", "Serve a live page: progress, curves, laws so far, predictions and failures."),
    "train": ("train", "Train one run from its configuration, on one device or several."),
    "check": ("check", "Check a plugin: what its models get wrong, in plain words."),
    "studies": ("study", "List the studies and the questions they ask."),
    "data": ("data", "List, prepare and show corpora and tokenizers."),
    "cache": ("data", "List and delete what can be made or fetched again."),
    "runs": ("runs", "List, show, compare, export and remove runs."),
    "audit": ("laws", "Look for what is wrong with a table of runs, before any fit."),
    "fit": ("laws", "Fit a law to a table of runs."),
    "compare": ("laws", "Compare laws by how well they predict the most expensive runs from the cheapest."),
    "predict": ("predict", "Predict the loss of new runs, with intervals."),
    "curves": ("predict", "Predict the loss curve of a learning-rate schedule from those of others."),
    "versus": ("versus", "Compare recipes trained on the same sizes: does a change help, and at what scale?"),
    "isoflop": ("laws", "Find the compute-optimal size at each budget of a table of runs."),
    "plan": ("laws", "Plan a training run for a budget, a time or a target loss."),
    "laws": ("laws", "List the laws, or show one."),
    "atlas": ("atlas", "List, fetch and check public tables of scaling runs."),
    "webtext": ("webtext", "Build a WebText-like corpus from links."),
    "doctor": ("doctor", "Show what this machine and installation can do."),
}
"""Command name -> (module of this package that defines it, one-line help)."""


_MAY_NOT = "name a file or folder that you may read and write, or change its permissions"
_REFUSALS = {
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EACCES: _MAY_NOT,
    errno.EPERM: _MAY_NOT,
    errno.EROFS: _MAY_NOT,
    errno.ELOOP: "links lead in a circle there: name the file itself",
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EIO: "the disk could not be read or written: check it",
    errno.ESTALE: "the network drive has lost that file: run the same command again",
}
"""What an operating system refuses about a file, whoever asks, and what to do about it."""


class UnknownCommand(click.UsageError):
    """A command that a group does not have, with the hint that names the nearest."""

    def __init__(self, name: str, known: list[str], ctx: click.Context) -> None:

        error = unknown("command", name, known)
        super().__init__(error.message, ctx)
        self.hint = error.cli_hint


class Group(click.Group):
    """A group whose unknown commands are answered with the nearest known one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that is named; see click."""
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise UnknownCommand(args[0], known, ctx)
        return super().resolve_command(ctx, args)


class _LazyGroup(Group):
    """A click group whose commands are imported only when they are used, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"allometry.cli.{COMMANDS[name][0]}")
        command: click.Command = module.command(name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what the operating system refuses about a file is no defect of Allometry."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is None or error.errno not in _REFUSALS:
                raise

            said = f"{error.filename}: {error.strerror}"
            raise AllometryError(said, hint=_REFUSALS[error.errno]) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    help="Load a Python file with models, laws, corpora or studies of yours; anywhere on the line, of any command.",
)
@click.version_option(package_name="allometry", message="%(version)s")
def app(
    debug: bool, plugin: tuple[str, ...]
) -> None:  # main() takes both off the line; they are here for --help
    """Measure, fit and use the scaling laws of language models."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line: errors that the user can mend are printed with their hint, without a traceback.

    Exit status 1 for them, 2 for wrong usage, 70 for a defect, 130 for ctrl-C. `--debug`, anywhere on the
    line, shows the traceback.
    """
    args = _aliases(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        args, files = _plugins([a for a in args if a != "--debug"])
        plugins.use(files)
        code = app.main(args, prog_name="allometry", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted", hint="the same command continues where it stopped", code=130)
    except UnknownCommand as error:
        _fail(error.message, hint=error.hint, code=2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "allometry"
        _fail(error.format_message(), hint=f"{path} --help", code=error.exit_code)
    except Exception as error:
        if debug:
            raise
        _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _plugins(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without `--plugin FILE` and `--plugin=FILE`, and the files."""
    rest: list[str] = []
    files: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*rest, word, *words], files
        if word == "--plugin":
            file = next(words, "")
            if not file or file.startswith("-"):
                raise click.UsageError("Option '--plugin' requires a file, such as my_things.py.")
            files.append(file)
        elif word.startswith("--plugin="):
            files.append(word.removeprefix("--plugin="))
        else:
            rest.append(word)
    return rest, files


def _aliases(args: list[str]) -> list[str]:
    """Replace what people type for --version and --help: `allometry version`, `allometry help fit`."""
    if args[:1] == ["version"]:
        return ["--version", *args[1:]]
    return [*args[1:], "--help"] if args[:1] == ["help"] else args


def _explain(error: Exception) -> NoReturn:

    if isinstance(error, ModuleNotFoundError) and error.name and (extra := extra_of(error.name)):
        error = missing_extra(error.name.split(".")[0], extra, "this command")
    if isinstance(error, AllometryError):
        _fail(error.message, hint=error.cli_hint, code=1)
    defect = "this is a defect: run again with --debug and report it"
    _fail(f"{type(error).__name__}: {error}", hint=defect, code=70)


def _fail(message: str, *, hint: str | None, code: int) -> NoReturn:

    print(f"error: {printable(message, lines=True)}", file=sys.stderr)
    if hint:
        print(f" hint: {hint}", file=sys.stderr)
    sys.exit(code)
