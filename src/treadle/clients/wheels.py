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
import tomllib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra, Refused, StateCorrupt, TreadleError, Unreachable
from treadle.base.image import Platform, Wheel
from treadle.base.log import Report, silent
from treadle.clients import wheel_tags
from treadle.clients.cache import Cache, arriving
from treadle.clients.index_access import again, bare, pieces

_TARGETS = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""glibc 2.28 (2018) and newer: what today's wheels are built for and today's bases have."""
_AT_ONCE = 4
_NAME = re.compile(r"[-_.]+")
_PINNED = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*==\s*([^\s;,*]+)\s*(?:;.*)?")
_AWAY = (
    "failed to fetch", "error sending request", "dns error", "tcp connect error", "timed out",
    "network was disabled", "network connectivity is disabled",
)  # fmt: skip
"""What uv says when an index does not answer (0.13); names of packages hold none of it."""
_UNKNOWN = ("401 unauthorized", "403 forbidden")


def resolve(
    requirements: Sequence[str],
    *,
    python: str,
    platform: Platform,
    constraints: Sequence[str] = (),
    sources: bool = False,
    cache: Cache | None = None,
    report: Report = silent,
) -> tuple[Wheel, ...]:
    """The wheels of `requirements` and of all that they need, sorted by name.

    Args:
        requirements: as in requirements.txt.
        python: the target's minor version, `3.11`.
        platform: the target.
        constraints: versions to keep to where the packages occur (what is installed here).
        sources: also take what has no wheel: its record then names a source distribution, which
            only a Dockerfile can use. uv may run the package's own code to see what it needs.
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
    pinned = {name: version for one in requirements for name, version in _pin(one)}
    here = {name: version for one in constraints for name, version in _pin(one)}
    # What a model pins holds, also where another version of it is installed by now.
    held = [one for one in constraints if not any(name in pinned for name, _ in _pin(one))]
    elsewhere = {n for n, version in pinned.items() if here.get(n, version) != version}
    try:
        return _compiled(requirements, held, python, platform, cache, sources=sources)
    except Refused:
        if not elsewhere:
            raise
    # It was made in another environment: what is installed here says nothing about the rest.
    found = _compiled(requirements, (), python, platform, cache, sources=sources)
    other = [w for w in found if w.name not in pinned and here.get(w.name, w.version) != w.version]
    report(
        f"{', '.join(sorted(elsewhere))} is pinned to another version than is installed here, so "
        + (
            "; ".join(f"{w.name} is {w.version} and not {here[w.name]}" for w in other)
            or "all else is free"
        )
    )
    return found


def exported(folder: Path) -> list[str] | None:
    """A project's uv.lock as requirements; None if it has none. Refused: uv cannot read it."""
    if not (folder / "uv.lock").is_file():
        return None
    done = subprocess.run(
        [_uv(), "export", "--frozen", "--no-emit-project", "--no-dev", "--no-hashes", "--no-header",
         "--no-annotate", "--quiet", "--project", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Refused(
            f"uv.lock cannot be used: {done.stderr.strip()[:400]}", hint="uv lock makes it anew"
        )
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("./", "../", "/", "-e ", "file:")):
            raise _no_file(line.removeprefix("-e ").partition(";")[0].strip(), "a folder of this machine")  # fmt: skip
    return lines


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


def _pin(requirement: str) -> Iterator[tuple[str, str]]:
    """(normalized name, version) of a requirement that allows one version."""
    found = _PINNED.fullmatch(requirement)
    if found:
        yield _NAME.sub("-", found[1]).lower(), found[2]


def _compiled(
    requirements: Sequence[str],
    constraints: Sequence[str],
    python: str,
    platform: Platform,
    cache: Cache,
    *,
    sources: bool,
) -> tuple[Wheel, ...]:
    """One run of uv."""
    only = () if sources else ("--only-binary", ":all:")
    held = cache.folder / f"constraints-{os.getpid()}.txt"
    with arriving(held) as file:
        file.write("\n".join(constraints).encode())
    try:
        done = subprocess.run(
            [
                _uv(), "pip", "compile", "-", "--format", "pylock.toml", "--quiet", "--no-header",
                "--python-platform", _TARGETS[platform.architecture], "--python-version", python,
                *only, "--constraint", str(held), "--no-annotate",
            ],
            input="\n".join(requirements) + "\n", capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        held.unlink(missing_ok=True)
    if done.returncode != 0:
        raise _why(done.stderr, python, platform)
    return _wheels(tomllib.loads(done.stdout), python, platform, cache, sources=sources)


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise MissingExtra("uv", "images", "resolving what goes into an image")
    return found


def _wheels(
    document: Mapping[str, Any], python: str, platform: Platform, cache: Cache, *, sources: bool
) -> tuple[Wheel, ...]:
    """The packages of a pylock (PEP 751), one file each."""
    found = []
    for package in document.get("packages", []):
        listed = _listed(package)
        if not listed and sources:
            listed = _listed(package, wheels=False)
        if not listed:
            raise _no_wheel(package["name"], package.get("version", ""), python, platform)
        filename = wheel_tags.best(listed, python)
        chosen, address = listed[filename]
        sha256 = (chosen.get("hashes") or {}).get("sha256")
        size = chosen.get("size")
        if sha256 is None or size is None:
            measured, size = _measured(address, filename)
            if sha256 not in (None, measured):
                raise _other(filename, str(sha256), measured)
            sha256 = measured
        cache.put("places", sha256, bare(address))
        version = package.get("version") or filename.removesuffix(".tar.gz").split("-")[1]
        found.append(Wheel(_NAME.sub("-", package["name"]).lower(), version, filename, sha256, size))  # fmt: skip
    return tuple(sorted(found, key=lambda wheel: wheel.name))


def _listed(
    package: Mapping[str, Any], *, wheels: bool = True
) -> dict[str, tuple[Mapping[str, Any], str]]:
    """File name → (entry, address) of the wheels of a package, or of its source distribution;
    empty where it has none.

    A requirement `name @ ADDRESS` names a file (`archive`), a folder or a repository instead.
    """
    for key, told in (("directory", "a folder of this machine"), ("vcs", "a repository")):
        if key in package:
            raise _no_file(package["name"], told)
    if "archive" in package:
        entries = [package["archive"]]
    elif wheels:
        entries = package.get("wheels") or []
    else:
        entries = [package["sdist"]] if "sdist" in package else []
    found = {}
    for entry in entries:
        address = entry.get("url") or Path(entry["path"]).resolve().as_uri()
        name = urllib.parse.unquote(bare(address).rpartition("/")[2])
        if name.endswith(".whl") == wheels:
            found[name] = (entry, address)
    return found


def _measured(address: str, filename: str) -> tuple[str, int]:
    """Hash and size of a wheel whose index tells neither."""

    def read() -> tuple[str, int]:
        hashed, size = hashlib.sha256(), 0
        for piece in pieces(address):
            hashed.update(piece)
            size += len(piece)
        return hashed.hexdigest(), size

    return again(filename, read)


def _place(cache: Cache, wheel: Wheel) -> Path:
    return cache.folder / "wheels" / wheel.sha256 / wheel.filename


def _fetched(wheel: Wheel, cache: Cache) -> Path:
    address = cache.get("places", wheel.sha256)
    if address is None:
        address = _looked_up(wheel, cache)
    place = _place(cache, wheel)

    def read() -> Path:
        with arriving(place) as file:
            hashed, size = hashlib.sha256(), 0
            for piece in pieces(address):
                hashed.update(piece)
                size += len(piece)
                if size > wheel.size_bytes:
                    break  # it cannot become right any more, and it may have no end
                file.write(piece)
            if hashed.hexdigest() != wheel.sha256:
                raise _other(wheel.filename, wheel.sha256, hashed.hexdigest())
        return place

    return again(wheel.filename, read)


def _other(filename: str, wanted: str, seen: str) -> StateCorrupt:
    return StateCorrupt(
        f"{filename} came with another content: wanted sha256 {wanted[:12]}…, got {seen[:12]}…",
        hint="a proxy or a changed index; `treadle build --update` resolves anew",
    )


def _looked_up(wheel: Wheel, cache: Cache) -> str:
    """Where a wheel that a lock names can be found: asked from the index by name and version."""
    done = subprocess.run(
        [_uv(), "pip", "compile", "-", "--format", "pylock.toml", "--quiet", "--no-header",
         "--universal", "--no-deps", "--only-binary", ":all:"],
        input=f"{wheel.name}=={wheel.version}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        for package in tomllib.loads(done.stdout).get("packages", []):
            for entry, address in _listed(package).values():
                if (entry.get("hashes") or {}).get("sha256") == wheel.sha256:
                    cache.put("places", wheel.sha256, bare(address))
                    return bare(address)
    raise Unreachable(
        f"the package index has no {wheel.filename} with the hash that treadle.lock names",
        hint="`treadle build --update` resolves anew",
    )


def _no_file(name: str, told: str) -> Refused:
    return Refused(
        f"{name} is {told} and not a wheel: an image cannot be made of it again elsewhere",
        hint="build a wheel of it (`uv build --wheel`), put it into a folder that UV_FIND_LINKS "
        "names, and require it by name and version",
    )


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
    if any(sign in low for sign in _UNKNOWN):
        return Unreachable(
            f"the package index does not know who asks: {words[:400]}",
            hint="name and password: netrc, the index's address in UV_DEFAULT_INDEX or UV_INDEX, "
            "or UV_INDEX_NAME_USERNAME and UV_INDEX_NAME_PASSWORD",
        )
    if any(sign in low for sign in _AWAY):
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
