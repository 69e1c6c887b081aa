"""Of several wheels of one release that all suit the target, the one that an installer would take.

uv lists the wheels that suit; in which order, it does not promise. First the wheel built for this
very Python, then the stable interface (`abi3`), then wheels for the platform alone, then pure Python;
of equals the one for the newest glibc, then the highest build number.

Source: the platform compatibility tags (packaging.python.org), PEP 425, 600 and 427.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEGACY = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
"""Minor version of glibc 2 that these names stand for."""


def best(filenames: Iterable[str], python: str) -> str:
    """The file name to take; `python` is the target's minor version, `3.11`. At least one is given."""
    return max(filenames, key=lambda name: (*_rank(name, python), name))


def _rank(filename: str, python: str) -> tuple[int, int, int, int]:
    """Larger is better: kind, the Python it was built for, glibc, build number."""
    parts = filename.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return -1, 0, 0, 0
    pythons, abis, platforms = (set(part.split(".")) for part in parts[-3:])
    own = "cp" + python.replace(".", "")
    if own in abis:
        kind = 4
    elif "abi3" in abis:
        kind = 3
    elif "any" not in platforms:
        kind = 2
    else:
        kind = 1
    minors = [int(found[1]) for one in pythons if (found := re.fullmatch(r"(?:cp|py)3(\d+)", one))]
    build = re.match(r"\d+", parts[2]) if len(parts) > 5 else None
    return kind, max(minors, default=0), max(map(_glibc, platforms)), int(build[0]) if build else 0


def _glibc(platform: str) -> int:
    found = re.match(r"manylinux_2_(\d+)_", platform)
    if found:
        return int(found[1])
    return _LEGACY.get(platform.partition("_")[0], 0)
