"""Groups of commands that answer an unknown name with the nearest known ones."""

from __future__ import annotations

from typing import Any

import click


class UnknownCommand(click.UsageError):
    """A command that a group does not have, with the hint that names the nearest."""

    def __init__(self, name: str, known: list[str], ctx: click.Context) -> None:
        from allometry.core.errors import unknown

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
