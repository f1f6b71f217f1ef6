"""Write docs/cli.md from every command's --help, so that the page cannot say anything else."""

from pathlib import Path

import click

from allometry.cli import COMMANDS, app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

HEAD = """# Commands

Made from the program itself by `python tools/cli_docs.py`. Every command takes `--help`; every table takes
`--json` and `--csv`; `--debug` shows the traceback of an error.
"""


def helps(command: click.Command, context: click.Context, name: str) -> list[tuple[str, str]]:
    """The help of a command and of everything below it, as (what is typed, text)."""
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
    """The whole page."""
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
