"""The command group: lazy, the same words everywhere, nothing heavy for what needs nothing heavy."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.support.projects import treadle

from treadle.cli.group import COMMANDS
from treadle.cli.group import treadle as group

HEAVY = {
    "mlflow", "pandas", "sklearn", "pydantic", "rich", "altair", "lightkube", "polars", "pyarrow",
    "numpy", "scipy", "ruamel", "starlette", "uvicorn",
}  # fmt: skip


def modules_after(folder: Path, *arguments: str) -> set[str]:
    """The top-level modules that a command has imported, in a process of its own."""
    code = (
        "import sys, json\n"
        "from treadle.cli.group import command_line\n"
        f"code = command_line({list(arguments)!r})\n"
        "print(json.dumps([code, sorted({n.partition('.')[0] for n in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                          check=True)  # fmt: skip
    exit_code, names = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0, done
    return set(names)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    assert not modules_after(tmp_path, "--help") & HEAVY


def test_each_command_resolves_and_its_help_is_in_english_sentences() -> None:
    for name, (place, line) in COMMANDS.items():
        module, function = place.split(":")
        command = getattr(importlib.import_module(f"treadle.cli.{module}"), function)
        assert isinstance(command, click.Command), name
        assert command.name == name
        assert line.endswith("."), name
        assert command.help, name
        assert len(line) <= 75, name


def test_the_help_of_the_group_names_every_command(tmp_path: Path) -> None:
    shown = treadle(tmp_path, "--help")
    assert shown.code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in shown.out
        assert line in " ".join(shown.out.split())


def leaves() -> list[tuple[str, ...]]:
    """Every command that does something: groups are followed to their commands."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.commands]
        elif name != "serve":  # its options are the server's, which is another program
            found.append((name,))
    return found


@pytest.mark.parametrize("path", leaves(), ids=" ".join)
def test_every_command_has_the_options_that_all_share(path: tuple[str, ...]) -> None:
    command: click.Command = group.get_command(click.Context(group), path[0])  # type: ignore[assignment]
    if len(path) > 1:
        command = command.commands[path[1]]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "-q", "--quiet", "-v", "--verbose", "--debug"} <= options
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.name == "lines", (path, parameter.name)


def test_an_unknown_command_is_answered_with_the_nearest(tmp_path: Path) -> None:
    ran = treadle(tmp_path, "statsu")
    assert ran.code == 2
    assert "Did you mean `treadle status`?" in ran.err
    assert ran.out == ""


def test_an_unknown_option_is_a_usage_error_with_a_hint(tmp_path: Path) -> None:
    ran = treadle(tmp_path, "plan", "--exitcode")
    assert ran.code == 2
    assert "--exit-code" in ran.err


def test_a_usage_error_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    ran = treadle(tmp_path, "plan", "--json")
    assert ran.code == 2
    assert ran.json["schema_version"] == 1
    assert ran.json["exit_code"] == 2
    assert "treadle.yaml" in ran.json["message"]
    assert "treadle init" in ran.json["hint"]
    assert ran.err == ""


def test_the_version_is_printed(tmp_path: Path) -> None:
    from treadle import __version__

    assert __version__ in treadle(tmp_path, "--version").out
