"""Whether a command line names an installed program, its sub-commands and options, as its own parser has them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

BIN = Path(sys.executable).parent
#: Programs of others, which stand in images of theirs or on an operator's machine.
FOREIGN = {"pg_isready", "python", "bash", "sh", "docker", "helm", "kubectl", "terraform", "systemctl", "aws"}


def _cpllm() -> Any:
    from typer.main import get_command

    from cpllm_dagster.cli import app

    return get_command(app)


def _dagster() -> Any:
    from dagster._cli import create_dagster_cli

    return create_dagster_cli()


def _daemon() -> Any:
    from dagster._daemon.cli import create_dagster_daemon_cli

    return create_dagster_daemon_cli()


def _webserver() -> Any:
    from dagster_webserver.cli import create_dagster_webserver_cli

    return create_dagster_webserver_cli()


def _ray() -> Any:
    from ray.scripts.scripts import cli

    return cli


PROGRAMS: dict[str, Callable[[], Any]] = {
    "cpllm": _cpllm,
    "dagster": _dagster,
    "dagster-daemon": _daemon,
    "dagster-webserver": _webserver,
    "ray": _ray,
}


def require_command(words: list[str]) -> None:
    """Fail unless the words are a command that the installed program understands."""
    program, *arguments = words
    if program in FOREIGN:
        return
    assert (BIN / program).is_file(), f"{program} is not installed"
    if program not in PROGRAMS:
        known = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=True).stdout
        for word in arguments:
            assert not word.startswith("-") or re.search(rf"(^|\s){re.escape(word)}\b", known), f"{program}: no {word}"
        return
    command: Any = PROGRAMS[program]()
    if set(arguments) == {"--help"}:
        return
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"{program} has no command {name!r}"
        command = command.commands[name]
    with click.Context(command, info_name=program, resilient_parsing=True) as context:
        try:
            command.make_parser(context).parse_args(list(arguments))
        except click.ClickException as error:
            raise AssertionError(f"{words}: {error.format_message()}") from error


def options_of(words: list[str]) -> dict[str, str]:
    """Give the options of a command line that have a value, without their dashes."""
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, given, value = word.partition("=")
        if name.startswith("--") and (given or not following.startswith("-")):
            found[name.removeprefix("--")] = value if given else following
    return found
