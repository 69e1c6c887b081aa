"""A command that a message names can be typed: it exists, and so do its flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

import treadle
from treadle.cli.group import COMMANDS
from treadle.cli.group import treadle as group

SOURCES = Path(treadle.__file__).parent
NAMED = re.compile(r"treadle ([a-z]+)((?: (?:--?[a-z-]+|[^\s`,;.)]+))*)")


def texts(path: Path) -> list[str]:
    """Every text of a file but docstrings; what a formatted text fills in is `X`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner |= {
                id(child) for child in ast.walk(node.value) if isinstance(node.value, ast.Constant)
            }
        if isinstance(node, ast.JoinedStr):
            inner |= {id(child) for child in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append(
                "".join(
                    part.value if isinstance(part, ast.Constant) else "X" for part in node.values
                )
            )
    return found


def named() -> list[tuple[str, str, str]]:
    """(file, command, the words behind it) of every command that a text names."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        for text in texts(path):
            for quoted in (
                *re.findall(r"`(treadle [^`]*)`", text),
                *re.findall(r"(?:: |, |; |^)(treadle [^`\n]*)", text),
            ):
                match = NAMED.match(quoted)
                if match and match[1] in COMMANDS:
                    found.append((path.relative_to(SOURCES).as_posix(), match[1], match[2]))
                elif quoted.startswith("treadle ") and re.fullmatch(r"treadle [a-z]+", quoted):
                    found.append((path.relative_to(SOURCES).as_posix(), quoted.split()[1], ""))
    return sorted(set(found))


@pytest.mark.parametrize(("file", "name", "rest"), named())
def test_a_command_that_a_text_names_can_be_typed(file: str, name: str, rest: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None, (file, name)
    words = rest.split()
    if isinstance(command, click.Group):
        if not words:
            return
        assert words[0] in command.commands, (file, name, rest)
        command, words = command.commands[words[0]], words[1:]
    options = {o for p in command.params for o in p.opts if isinstance(p, click.Option)}
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    for word in words:
        if word.startswith("-") and word != "-":
            assert word in options, (file, name, rest)
    if words and not words[0].startswith(("-", "(", "to", "is", "again")):
        assert arguments, f"{file}: `treadle {name}{rest}`: {name} takes no argument"
