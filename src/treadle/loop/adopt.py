"""`treadle init`: propose a project from what a folder holds, then write what is not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from treadle.base.errors import TreadleError, UsageError
from treadle.plan import adopt
from treadle.plan.template import Guess


@dataclass(frozen=True)
class Proposal:
    """What would be written and why."""

    folder: Path
    guesses: tuple[Guess, ...]
    files: dict[Path, str]
    existing: tuple[Path, ...]
    appends: dict[Path, str]
    """Lines that existing files lack (.gitignore)."""


def propose(folder: Path, ci: str | None) -> Proposal:
    """Look at the folder and decide every file's text; writes nothing."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = adopt.detect(folder)
    texts = {folder / name: text for name, text in adopt.write(found).items()}
    if ci is not None:
        name, text = adopt.ci_workflow(ci, found.project, found.environment)
        texts[folder / name] = text
    existing = tuple(path for path in texts if path.exists())
    return Proposal(
        folder,
        tuple(found.guesses),
        {path: text for path, text in texts.items() if path not in existing},
        existing,
        {folder / name: line for name, line in found.appends.items()},
    )


def write(proposal: Proposal) -> None:
    """Write the proposed files; if one cannot be written, those before it are taken back."""
    written: list[Path] = []
    made: list[Path] = []
    before = {path: path.read_bytes() for path in proposal.appends}
    try:
        for path, text in proposal.files.items():
            for parent in reversed(path.parents):
                if not parent.exists():
                    parent.mkdir()
                    made.append(parent)
            with open(path, "x", encoding="utf-8") as file:  # x: never overwrites, not even now
                written.append(path)
                file.write(text)
        for path, line in proposal.appends.items():
            with open(path, "ab") as log:
                log.write(
                    (b"" if before[path].endswith(b"\n") or not before[path] else b"\n")
                    + line.encode()
                    + b"\n"
                )
    except OSError as error:
        for path, content in before.items():
            path.write_bytes(content)
        for path in written:
            path.unlink(missing_ok=True)
        for parent in reversed(made):
            parent.rmdir()
        raise TreadleError(
            f"cannot write {error.filename}: {error.strerror}; nothing was left",
            hint="check the folder's permissions",
        ) from error
