"""`treadle.lock`: what images of this project are made of, so that equal inputs give equal digests.

A base's tag moves and an index gets new releases; the lock says which digest and which wheels were
meant. It stands beside treadle.yaml, is written by `treadle build`, and is to be committed.
`treadle build --update` resolves anew.

    {"format": 1, "compressor": "gzip-6/zlib-1.3.1",
     "bases": {REFERENCE: {PLATFORM: DIGEST}},
     "wheels": {"PURPOSE PLATFORM PYTHON": {"requirements": DIGEST, "wheels": [...]}}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from treadle.base.digest import digest
from treadle.base.errors import UsageError
from treadle.base.image import Platform, Purpose, Wheel

NAME = "treadle.lock"
FORMAT = 1


@dataclass(frozen=True)
class Resolved:
    """Wheels, and the digest of the requirements that led to them."""

    requirements: str
    wheels: tuple[Wheel, ...]


@dataclass(frozen=True)
class Lock:
    """The lock's content; changes make a new one."""

    compressor: str | None = None
    bases: dict[str, dict[str, str]] = field(default_factory=dict)
    resolved: dict[str, Resolved] = field(default_factory=dict)

    def base(self, reference: str, platform: Platform) -> str | None:
        """The digest that a base's name was pinned to."""
        return self.bases.get(reference, {}).get(str(platform))

    def with_base(self, reference: str, platform: Platform, pinned: str) -> Lock:
        """With a base's name pinned."""
        known = {**self.bases.get(reference, {}), str(platform): pinned}
        return replace(self, bases={**self.bases, reference: known})

    def wheels(
        self, purpose: Purpose, platform: Platform, python: str, requirements: Sequence[str]
    ) -> tuple[Wheel, ...] | None:
        """The wheels for these very requirements, or None if they are not resolved."""
        found = self.resolved.get(_slot(purpose, platform, python))
        if found is None or found.requirements != digest(sorted(requirements)):
            return None
        return found.wheels

    def with_wheels(
        self, purpose: Purpose, platform: Platform, python: str,
        requirements: Sequence[str], wheels: tuple[Wheel, ...],
    ) -> Lock:  # fmt: skip
        """With requirements resolved."""
        made = Resolved(digest(sorted(requirements)), wheels)
        return replace(self, resolved={**self.resolved, _slot(purpose, platform, python): made})


def _slot(purpose: Purpose, platform: Platform, python: str) -> str:
    return f"{purpose} {platform} {python}"


def text(lock: Lock) -> str:
    """The file's text: sorted, a wheel a line."""
    told = {
        "format": FORMAT,
        "compressor": lock.compressor,
        "bases": lock.bases,
        "wheels": {
            slot: {
                "requirements": one.requirements,
                "wheels": [asdict(wheel) for wheel in sorted(one.wheels, key=lambda w: w.name)],
            }
            for slot, one in lock.resolved.items()
        },
    }
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def parse(data: str, name: str = NAME) -> Lock:
    """The inverse of `text`. UsageError for what is no lock."""
    try:
        told = json.loads(data)
        if told.get("format") != FORMAT:
            raise UsageError(
                f"{name} has the format {told.get('format')!r}, and this Treadle writes {FORMAT}",
                hint="upgrade Treadle, or delete the file: treadle build makes it anew",
            )
        return Lock(
            told["compressor"],
            {str(k): {str(p): str(d) for p, d in v.items()} for k, v in told["bases"].items()},
            {
                slot: Resolved(one["requirements"], tuple(Wheel(**w) for w in one["wheels"]))
                for slot, one in told["wheels"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name} is no lock of Treadle: {error}",
            hint="was it merged by hand? Delete it: treadle build makes it anew",
        ) from None


def read(folder: Path) -> Lock:
    """The project's lock, or an empty one."""
    try:
        return parse((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lock()
