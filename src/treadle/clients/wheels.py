"""Requirements → wheels for a target platform, by uv; and the wheels' files, checked by hash.

uv only resolves: which wheel of which package, by the index's own metadata, for a platform that need
not be this one. What it finds is kept as name, version, file name, hash and size; where a file was
found is kept apart, in the cache, because it is not part of what the file is. Files are fetched from
there by their hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra, Refused, StateCorrupt, TreadleError, Unreachable
from treadle.base.image import Platform, Wheel
from treadle.base.log import Report, silent
from treadle.clients.cache import Cache, arriving

_TARGETS = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""glibc 2.28 (2018) and newer: what today's wheels are built for and today's bases have."""
_AT_ONCE = 4
_TRIES = 4
_CHUNK = 1 << 20
_NAME = re.compile(r"[-_.]+")


def resolve(
    requirements: Sequence[str],
    *,
    python: str,
    platform: Platform,
    constraints: Sequence[str] = (),
    cache: Cache | None = None,
    report: Report = silent,
) -> tuple[Wheel, ...]:
    """The wheels of `requirements` and of all that they need, sorted by name.

    Args:
        requirements: as in requirements.txt.
        python: the target's minor version, `3.11`.
        platform: the target.
        constraints: versions to keep to where the packages occur (what is installed here).
        cache: where the places of the wheels are remembered.
        report: progress.

    Raises:
        Refused: they conflict, or a package has no wheel for the target.
        Unreachable: the package index does not answer.
        MissingExtra: uv is not installed.
    """
    cache = cache or Cache()
    report(
        f"resolving {len(requirements)} requirements for {platform}, Python {python}", detail=True
    )
    given = "\n".join(requirements) + "\n"
    held = cache.folder / "constraints.txt"
    with arriving(held.with_name(f"constraints-{os.getpid()}.txt")) as file:
        file.write("\n".join(constraints).encode())
    held = held.with_name(f"constraints-{os.getpid()}.txt")
    try:
        done = subprocess.run(
            [
                _uv(), "pip", "compile", "-", "--format", "pylock.toml", "--quiet", "--no-header",
                "--python-platform", _TARGETS[platform.architecture], "--python-version", python,
                "--only-binary", ":all:", "--constraint", str(held), "--no-annotate",
            ],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        held.unlink(missing_ok=True)
    if done.returncode != 0:
        raise _why(done.stderr, python, platform)
    return _wheels(tomllib.loads(done.stdout), python, platform, cache)


def exported(folder: Path) -> list[str] | None:
    """A project's uv.lock as requirements; None if it has none. Refused: uv cannot read it."""
    if not (folder / "uv.lock").is_file():
        return None
    done = subprocess.run(
        [_uv(), "export", "--frozen", "--no-emit-project", "--no-hashes", "--no-header",
         "--no-annotate", "--quiet", "--project", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Refused(
            f"uv.lock cannot be used: {done.stderr.strip()[:400]}", hint="uv lock makes it anew"
        )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def fetch(
    wheels: Iterable[Wheel], *, cache: Cache | None = None, report: Report = silent
) -> dict[Wheel, Path]:
    """The files of the wheels, from the cache or from where they were found; several at once.

    Raises StateCorrupt for a file that is not what its hash says (it is not kept), Unreachable
    where none can be had, DiskFull.
    """
    cache = cache or Cache()
    found: dict[Wheel, Path] = {}
    missing: list[Wheel] = []
    for wheel in wheels:
        place = _place(cache, wheel)
        if place.is_file() and place.stat().st_size == wheel.size_bytes:
            found[wheel] = place
        else:
            missing.append(wheel)
    if missing:
        size = sum(wheel.size_bytes for wheel in missing) / 1e6
        report(f"fetching {len(missing)} wheels, {size:.0f} MB")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            work = {wheel: pool.submit(_fetched, wheel, cache) for wheel in missing}
            found |= {wheel: future.result() for wheel, future in work.items()}
    return found


def known(wheel: Wheel, cache: Cache | None = None) -> bool:
    """Whether the file is here, or it is known where to find it."""
    cache = cache or Cache()
    return _place(cache, wheel).is_file() or cache.get("places", wheel.sha256) is not None


# ---- how -----------------------------------------------------------------------------------------


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise MissingExtra("uv", "images", "resolving what goes into an image")
    return found


def _wheels(
    document: Mapping[str, Any], python: str, platform: Platform, cache: Cache
) -> tuple[Wheel, ...]:
    """The packages of a pylock (PEP 751), one wheel each."""
    found = []
    for package in document.get("packages", []):
        listed = package.get("wheels") or []
        if not listed:
            raise _no_wheel(package["name"], package.get("version", ""), python, platform)
        chosen = listed[0]
        address = chosen.get("url")
        if address is None:
            address = Path(chosen["path"]).resolve().as_uri()
        name = urllib.parse.unquote(address.partition("#")[0].rpartition("/")[2])
        sha256 = (chosen.get("hashes") or {}).get("sha256")
        size = chosen.get("size")
        if sha256 is None or size is None:
            sha256, size = _measured(address)
        cache.put("places", sha256, address)
        found.append(Wheel(_NAME.sub("-", package["name"]).lower(), package["version"], name, sha256, size))  # fmt: skip
    return tuple(sorted(found, key=lambda wheel: wheel.name))


def _measured(address: str) -> tuple[str, int]:
    """Hash and size of a wheel whose index tells neither."""
    hashed, size = hashlib.sha256(), 0
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - as the index says
        while piece := answer.read(_CHUNK):
            hashed.update(piece)
            size += len(piece)
    return hashed.hexdigest(), size


def _place(cache: Cache, wheel: Wheel) -> Path:
    return cache.folder / "wheels" / wheel.sha256 / wheel.filename


def _fetched(wheel: Wheel, cache: Cache) -> Path:
    address = cache.get("places", wheel.sha256)
    if address is None:
        address = _looked_up(wheel, cache)
    place = _place(cache, wheel)
    for attempt in range(_TRIES):
        try:
            with arriving(place) as file:
                hashed = hashlib.sha256()
                with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310
                    while piece := answer.read(_CHUNK):
                        hashed.update(piece)
                        file.write(piece)
                if hashed.hexdigest() != wheel.sha256:
                    raise StateCorrupt(
                        f"{wheel.filename} came with another content: wanted sha256 "
                        f"{wheel.sha256[:12]}…, got {hashed.hexdigest()[:12]}…",
                        hint="a proxy or a changed index; `treadle build --update` resolves anew",
                    )
            return place
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            gone = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
            if gone or attempt == _TRIES - 1:
                raise Unreachable(
                    f"{wheel.filename} cannot be fetched: {_said(error)}",
                    hint="is the package index reachable from here? then `treadle build` again",
                ) from None
            time.sleep(0.5 * 2**attempt)
    raise AssertionError


def _looked_up(wheel: Wheel, cache: Cache) -> str:
    """Where a wheel that a lock names can be found: asked from the index by name and version."""
    done = subprocess.run(
        [_uv(), "pip", "compile", "-", "--format", "pylock.toml", "--quiet", "--no-header",
         "--universal", "--no-deps", "--only-binary", ":all:"],
        input=f"{wheel.name}=={wheel.version}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        for package in tomllib.loads(done.stdout).get("packages", []):
            for one in package.get("wheels") or []:
                if (one.get("hashes") or {}).get("sha256") == wheel.sha256:
                    address = str(one.get("url") or Path(one["path"]).resolve().as_uri())
                    cache.put("places", wheel.sha256, address)
                    return address
    raise Unreachable(
        f"the package index has no {wheel.filename} with the hash that treadle.lock names",
        hint="`treadle build --update` resolves anew",
    )


def _said(error: Exception) -> str:
    """Without the address: it may hold a password."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


def _no_wheel(name: str, version: str, python: str, platform: Platform) -> Refused:
    return Refused(
        f"{name} {version} has no wheel for Python {python} on {platform}".replace("  ", " "),
        hint="choose a version that has one, or build it in a container: "
        "`treadle build --dockerfile DIR` writes the Dockerfile",
    )


def _why(text: str, python: str, platform: Platform) -> TreadleError:
    """Uv's reason in plain words."""
    said = re.sub(r"https?://\S+", "the index", text.strip())
    words = " ".join(line.strip(" ×╰─▶│") for line in said.splitlines() if line.strip(" ×╰─▶│"))
    low = words.lower()
    if any(sign in low for sign in ("failed to fetch", "connect", "dns error", "timed out")):
        return Unreachable(
            f"the package index does not answer: {words[:300]}",
            hint="is the network there? UV_DEFAULT_INDEX and UV_FIND_LINKS name other indexes",
        )
    found = re.search(
        r"([A-Za-z0-9._-]+)==(\S+?) (?:has no usable wheels|has no wheels)", words
    ) or re.search(r"only the following versions of ([A-Za-z0-9._-]+)()", words)
    if "no usable wheels" in low or "no wheels" in low or "has no wheel" in low:
        name, version = (found[1], found[2]) if found else ("a package", "")
        refused = _no_wheel(name, version, python, platform)
        return Refused(f"{refused.message} ({words[:400]})", hint=refused.hint)
    return Refused(
        f"the requirements cannot be met on {platform} with Python {python}: {words[:800]}",
        hint="change the pins of the model or of the project, or `treadle build --dockerfile DIR`",
    )
