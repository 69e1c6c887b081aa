"""What a person or a program reads: results on stdout, progress on stderr, errors with their fix."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from treadle.base.errors import TreadleError
from treadle.base.plain import to_plain

SCHEMA_VERSION = 1
"""Of every `--json` answer; raised when a field changes its meaning or goes away."""

F = TypeVar("F", bound=Callable[..., Any])


class Console:
    """Where lines go: progress to stderr, results to stdout, plain or as JSON."""

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._styles = _wants_colour(sys.stderr)
        self._number = 0

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Console:
        """For errors before any option was parsed."""
        return cls(as_json="--json" in arguments, quiet="-q" in arguments or "--quiet" in arguments)

    # ---- progress ----------------------------------------------------------------------------

    def report(self, line: str, **facts: Any) -> None:
        """A phase's progress line (`base.log.Report`); with `phase=` it begins a numbered step."""
        if facts.get("detail") and not self.verbose:
            return
        if self.as_json:
            if self.verbose:
                event = {"schema_version": SCHEMA_VERSION, "event": line, **to_plain(facts)}
                print(json.dumps(event, default=str), file=sys.stderr, flush=True)
            return
        if self.quiet and not facts.get("warning"):
            return
        self._emit(line, facts)

    def _emit(self, line: str, facts: dict[str, Any]) -> None:
        phase = facts.get("phase")
        if phase:
            self._number += 1
            head = f"{self._number} {phase}"
            text = f"{head:<10} {line}"
            if self._styles:
                self._rich().print(f"[bold]{head:<10}[/bold] {_escape(line)}", highlight=False)
                return
        elif facts.get("warning"):
            text = f"warning: {line}"
            if self._styles:
                self._rich().print(f"[yellow]warning:[/yellow] {_escape(line)}", highlight=False)
                return
        else:
            text = f"{'':<10} {line}"
        print(text, file=sys.stderr, flush=True)

    @functools.cached_property
    def _console(self) -> Any:
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, soft_wrap=True)

    def _rich(self) -> Any:
        return self._console

    def line(self, text: str) -> None:
        """One line to stderr, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    # ---- results -----------------------------------------------------------------------------

    def result(self, data: Any, text: str | Callable[[], str]) -> None:
        """The result: `data` as JSON with `--json`, else `text` for people."""
        if self.as_json:
            plain = to_plain(data)
            answer = plain if isinstance(plain, dict) else {"items": plain}
            print(json.dumps({"schema_version": SCHEMA_VERSION, **answer}, default=str, indent=2))
        else:
            print(text() if callable(text) else text)
        sys.stdout.flush()

    def item(self, data: dict[str, Any], text: str) -> None:
        """One of a stream of results: a line of text, or a line of JSON."""
        print(
            json.dumps({"schema_version": SCHEMA_VERSION, **data}) if self.as_json else text,
            flush=True,
        )

    def ask(self, question: str, flag: str, *, default: bool = False) -> bool:
        """A yes or no on a terminal; elsewhere an error that names the flag."""
        if not sys.stdin.isatty():
            from treadle.base.errors import UsageError

            raise UsageError(f"{question} (no terminal to ask on)", hint=f"say so with {flag}")
        return click.confirm(question, default=default, err=True)


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Columns of text, aligned; numbers right. Readable without colour and in a pipe."""
    cells = [[_cell(item) for item in row] for row in rows]
    widths = [
        max(len(head[i]), *(len(row[i]) for row in cells)) if cells else len(head[i])
        for i in range(len(head))
    ]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(head))
    ]

    def render(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([render(head), *(render(row) for row in cells)])


def _cell(item: Any) -> str:
    if item is None:
        return "-"
    if isinstance(item, float):
        return f"{item:.4g}"
    return str(item)


def common(command: F) -> F:
    """The options that every command has; passes `console: Console` to the command."""

    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON, with a schema_version.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
    @click.option("-v", "--verbose", is_flag=True, help="More detail on stderr.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(
        *args: Any, as_json: bool, quiet: bool, verbose: bool, debug: bool, **options: Any
    ) -> Any:
        del debug  # read from the command line by `command_line`, also when parsing fails
        console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
        return command(*args, console=console, **options)

    return wrapped  # type: ignore[return-value]


def report_error(console: Console, error: BaseException) -> int:
    """Print an error the way every error is printed; returns the exit code."""
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"see `{context.command_path} --help`" if context else None
        return _print_error(console, type(error).__name__, error.format_message(), hint, 2)
    if isinstance(error, TreadleError):
        message = error.message
        user_traceback = getattr(error, "user_traceback", "")
        if user_traceback:
            message = f"{message}\n\n{user_traceback.rstrip()}"
        code = _print_error(console, type(error).__name__, message, error.hint, error.exit_code)
        return code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _print_error(
            console,
            "DiskFull",
            f"no space left on the device while writing {error.filename or 'a file'}; everything "
            "written before is intact",
            "free some space (`treadle gc` may), then run it again",
            1,
        )
    if isinstance(error, PermissionError):
        return _print_error(
            console,
            "PermissionError",
            f"no permission: {error.filename or error}",
            "give this user the right, or run where you may write",
            1,
        )
    trace = _save_trace(error)
    message = f"{type(error).__name__}: {error}"
    hint = "this is a bug in Treadle: please report it"
    if trace:
        hint += f" with the trace in {trace}"
    return _print_error(console, "Bug", message, hint, 1)


def _print_error(console: Console, kind: str, message: str, hint: str | None, code: int) -> int:
    if console.as_json:
        answer = {
            "schema_version": SCHEMA_VERSION,
            "error": kind,
            "message": message,
            "hint": hint,
            "exit_code": code,
        }
        print(json.dumps(answer, indent=2))
        return code
    label = "\x1b[1;31merror:\x1b[0m" if _wants_colour(sys.stderr) else "error:"
    print(f"{label} {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    return code


def _save_trace(error: BaseException) -> Path | None:
    """The traceback in a file of the project's state, or of the temporary folder."""
    import tempfile
    import time
    import traceback

    folder = _state_folder()
    text = "".join(traceback.format_exception(error))
    for place in (folder / "errors" if folder else None, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            place.mkdir(exist_ok=True)
            path = place / f"treadle-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
            path.write_text(text, encoding="utf-8")
        except OSError:
            continue
        return path
    return None


def _state_folder() -> Path | None:
    """The state of the project around the working folder, where there is one."""
    from treadle.clients.state import State
    from treadle.loop.project import find_folder

    try:
        folder = State.folder_of(find_folder())
    except (TreadleError, OSError):
        return None
    return folder if folder.is_dir() else None


def _wants_colour(stream: Any) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "") != "dumb"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
