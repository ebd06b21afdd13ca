"""Every command of the `seawall` group, found by walking it, so that a new one is tested by being there."""

from collections.abc import Iterator
from typing import Final

import click

from seawall.cli import _COMMANDS, group

LONG_LIVED: Final = frozenset({("up",), ("dashboard",), ("restart",)})
"""What runs until it is stopped, or says what a fleet says meanwhile."""


def commands() -> dict[tuple[str, ...], click.Command]:
    """Groups and commands by their path."""
    context = click.Context(group)
    found: dict[tuple[str, ...], click.Command] = {(): group}
    for name in _COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        found.update(_below((name,), command))
    return found


def _below(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _below((*path, name), each)


LEAVES: Final = {path: each for path, each in commands().items() if not isinstance(each, click.Group)}
"""The commands that do something."""

HOSTILE: Final = (
    "",
    "-1",
    "nosuch",
    "a\nb",
    "caf\udce9",
    "%s{}*?[",
    "'; drop table x; --",
    "9" * 4000,
    "\x1b[31mred",
)


def attempts(command: click.Command) -> Iterator[list[str]]:
    """Calls with each argument and option as nobody would give it; prompts are answered by an option."""
    answered = ["--yes"] if any("--yes" in each.opts for each in command.params) else []
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    required = [each.opts[0] for each in command.params if isinstance(each, click.Option) and each.required]
    named = [part for option in required for part in (option, "nosuch")]
    yield [*named, *answered]
    for text in HOSTILE:
        if arguments:
            yield [*named, *answered, "--", *[text for _ in arguments]]
        for option in (each for each in command.params if isinstance(each, click.Option)):
            if not option.is_flag and option.opts[0] not in required:
                filled = ["nosuch" for each in arguments if each.required]
                yield [*named, *answered, f"{option.opts[0]}={text}", "--", *filled]
    for option in (each for each in command.params if isinstance(each, click.Option)):
        if option.is_flag and option.opts[0] != "--yes" and "--help" not in option.opts:
            yield [*named, *answered, option.opts[0], *["nosuch" for each in arguments if each.required]]
