"""Write docs/cli.md from every command's --help, so that the page cannot say anything else."""

from pathlib import Path

import click

from allometry.cli import COMMANDS, app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

HEAD = """# Commands

Made from the program itself by `python tools/cli_docs.py`. Every command takes `--help`; those that print a
table of runs, corpora or laws take `--json` and `--csv`; `--debug` shows the traceback of an error. The exit
status is 0, or 1 for a mistake that the message explains, 2 for wrong usage, 70 for a defect, 130 for ctrl-C.

On a narrow console columns of a table are left out, which is said below it; what is piped elsewhere is whole.
The shell completes names of commands and options after `eval "$(_ALLOMETRY_COMPLETE=bash_source allometry)"`
in ~/.bashrc (`zsh_source` in ~/.zshrc; for fish, `_ALLOMETRY_COMPLETE=fish_source allometry | source`).
"""


def helps(command: click.Command, context: click.Context, name: str) -> list[tuple[str, str]]:
    """Return the help of a command and of everything below it, as (what is typed, text)."""
    with click.Context(
        command, info_name=name, parent=context, max_content_width=100, terminal_width=100
    ) as own:
        found = [(own.command_path, command.get_help(own))]
        if isinstance(command, click.Group):
            for below in command.list_commands(own):
                inner = command.get_command(own, below)
                if inner is not None and not inner.hidden:
                    found += helps(inner, own, below)
    return found


def page() -> str:
    """Return the whole page."""
    with click.Context(app, info_name="allometry", **app.context_settings) as root:
        parts = []
        for name in COMMANDS:
            command = app.get_command(root, name)
            assert command is not None
            parts += helps(command, root, name)
    return HEAD + "".join(f"\n## {typed}\n\n```text\n{text}\n```\n" for typed, text in parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
