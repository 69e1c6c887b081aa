"""plan/spec.py: an unchanged treadle.yaml is taken from the cache, a changed one never."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.plan.spec_files import VALID, changed, written

from treadle.plan.spec import load, remember


class Kept:
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], object] = {}

    def get(self, kind: str, key: str) -> object | None:
        text = self.values.get((kind, key))
        return None if text is None else json.loads(str(text))

    def put(self, kind: str, key: str, value: object) -> None:
        self.values[kind, key] = json.dumps(value, sort_keys=True)


def test_a_remembered_spec_is_equal_and_keeps_the_order_of_its_environments(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    spec = load(path, cache)
    assert cache.values == {}
    cache.put(*remember(path, spec))
    again = load(path, cache)
    assert again == spec
    assert list(again.deploy) == ["zebra", "nightly"]
    assert list(again.data) == ["flights", "arrivals"]


def test_a_changed_file_or_a_foreign_cache_entry_is_read_anew(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    kind, key, _ = remember(path, load(path))
    for foreign in ({}, [], "x", {"spec": {"project": "x"}, "order": {}}, {"spec": 3, "order": 3}):
        cache.put(kind, key, foreign)
        assert load(path, cache).project == "flights"
    cache.put(*remember(path, load(path)))
    written(tmp_path, changed("project: flights", "project: planes"))
    assert load(path, cache).project == "planes"


def test_a_file_saved_between_reading_and_remembering_is_not_taken_for_the_old_one(tmp_path):
    path, cache = written(tmp_path, VALID), Kept()
    spec = load(path, cache)
    written(tmp_path, changed("project: flights", "project: planes"))
    cache.put(*remember(path, spec))
    assert load(path, cache).project == "planes"


def test_an_unchanged_spec_is_loaded_without_pydantic_and_ruamel(tmp_path):
    path = written(tmp_path, VALID)
    kind, key, value = remember(path, load(path))
    (tmp_path / "cache.json").write_text(json.dumps({f"{kind} {key}": value}))
    code = """
import json, sys
from pathlib import Path
from treadle.plan.spec import load
kept = json.loads(Path("cache.json").read_text())
class Cache:
    def get(self, kind, key): return kept.get(f"{kind} {key}")
spec = load(Path("treadle.yaml"), Cache())
assert spec.project == "flights" and spec.default_environment == "zebra"
heavy = {"pydantic", "ruamel", "ruamel.yaml", "polars", "pandas", "cronsim", "zoneinfo", "difflib"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
