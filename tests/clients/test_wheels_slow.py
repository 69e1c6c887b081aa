"""clients/wheels.py with the real package index: the flights model's packages for both platforms."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from treadle.base.errors import Unreachable
from treadle.base.image import Platform
from treadle.build import needs
from treadle.clients import wheels
from treadle.clients.cache import Cache

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("platform", "machine"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_served_model_is_resolved_for_either_platform_and_its_files_are_wheels(
    platform: str, machine: str, tmp_path: Path
) -> None:
    pytest.importorskip("uv")
    cache = Cache(tmp_path)
    wanted = needs.serve(["scikit-learn"], "sklearn").requirements
    try:
        found = wheels.resolve(
            wanted, python="3.11", platform=Platform(platform), constraints=needs.installed(),
            cache=cache,
        )  # fmt: skip
    except Unreachable as error:
        pytest.skip(str(error))
    here = set(needs.installed())
    assert {"numpy", "scipy", "scikit-learn", "msgspec", "uvloop"} <= {one.name for one in found}
    assert {f"{one.name}=={one.version}" for one in found} <= here
    assert not [one for one in found if one.name in ("mlflow", "mlflow-skinny", "pandas")]
    assert all(machine in one.filename or one.filename.endswith("-any.whl") for one in found)
    small = [one for one in found if one.size_bytes < 1_000_000]
    for path in wheels.fetch(small, cache=cache).values():
        assert zipfile.ZipFile(path).testzip() is None
