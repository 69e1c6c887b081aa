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
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from treadle.base.digest import digest
from treadle.base.errors import UsageError
from treadle.base.image import Platform, Purpose, Wheel

NAME = "treadle.lock"
FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl")


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

    def renewed(self, purpose: Purpose, platforms: Collection[Platform], base: str) -> Lock:
        """Without what one build resolves anew; what is known of other purposes, platforms and
        bases stays."""
        names = {str(platform) for platform in platforms}
        bases = dict(self.bases)
        if base in bases:
            bases[base] = {name: one for name, one in bases[base].items() if name not in names}
        kept = {
            slot: one
            for slot, one in self.resolved.items()
            if slot.split(" ")[0] != purpose or slot.split(" ")[1] not in names
        }
        return Lock(None, {name: one for name, one in bases.items() if one}, kept)


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
                slot: Resolved(str(one["requirements"]), tuple(map(_wheel, one["wheels"])))
                for slot, one in told["wheels"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name} is no lock of Treadle: {error}",
            hint="was it merged by hand? Delete it: treadle build makes it anew",
        ) from None


def _wheel(told: Mapping[str, Any]) -> Wheel:
    """One wheel. ValueError for what cannot be one: its name and hash become a path in the cache."""
    wheel = Wheel(**told)
    texts = (wheel.name, wheel.version, wheel.filename, wheel.sha256)
    if not all(isinstance(one, str) for one in texts) or type(wheel.size_bytes) is not int:
        raise ValueError(f"{told} is no wheel")
    if not _FILENAME.fullmatch(wheel.filename) or not _SHA256.fullmatch(wheel.sha256):
        raise ValueError(f"{wheel.filename!r} with the hash {wheel.sha256!r} is no wheel")
    return wheel


def read(folder: Path) -> Lock:
    """The project's lock, or an empty one."""
    try:
        data = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Lock()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{NAME} is no lock of Treadle: {error}", hint="delete it: treadle build makes it anew"
        ) from None
    return parse(data)
