from __future__ import annotations

import os

import pytest

from treadle.base.errors import DataRefused, UsageError
from treadle.base.spec import DataSection
from treadle.data.source import format_of, listing, resolve


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")


def test_a_glob_gives_sorted_relative_posix_paths_of_files_only(tmp_path):
    files(tmp_path, "data/b.csv", "data/a.csv", "data/c.csv/x.txt", "data/.hidden.csv")
    section = DataSection(files="./data/*.csv")
    assert listing(section, tmp_path) == ["data/a.csv", "data/b.csv"]
    assert resolve(section, tmp_path) == [tmp_path / "data/a.csv", tmp_path / "data/b.csv"]
    assert listing(DataSection(files="data/a.csv"), tmp_path) == ["data/a.csv"]
    assert listing(DataSection(paths="data/**/*.txt"), tmp_path) == ["data/c.csv/x.txt"]
    assert listing(DataSection(query="SELECT 1", database="sqlite:///x"), tmp_path) == []


@pytest.mark.parametrize(
    "name, form",
    [
        ("a.parquet", "parquet"),
        ("a.CSV", "csv"),
        ("x.y.csv.gz", "csv"),
        ("a.tsv", "tsv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("rows/000001", "parquet"),
    ],
)
def test_the_suffix_tells_the_format(name, form):
    assert format_of(name) == form


def test_an_unknown_suffix_is_refused_with_those_that_are_read(tmp_path):
    files(tmp_path, "data/a.xlsx")
    with pytest.raises(UsageError, match=r"data/a\.xlsx") as caught:
        listing(DataSection(files="data/*"), tmp_path)
    assert ".parquet" in caught.value.hint


def test_no_match_names_the_glob_what_is_there_and_the_nearest_name(tmp_path):
    files(tmp_path, "data/flights-2013-01.parquet", "data/notes.txt")
    with pytest.raises(DataRefused) as caught:
        listing(DataSection(files="data/flihgts-*.parquet"), tmp_path)
    assert "data/flihgts-*.parquet" in caught.value.message
    assert "flights-2013-01.parquet, notes.txt" in caught.value.message
    assert "did you mean data/flights-2013-01.parquet?" in caught.value.hint
    with pytest.raises(DataRefused) as caught:
        listing(DataSection(files="dta/*.parquet"), tmp_path)
    assert "did you mean data/?" in caught.value.hint
    with pytest.raises(DataRefused, match="holds nothing"):
        (tmp_path / "empty").mkdir()
        listing(DataSection(files="empty/*.csv"), tmp_path)


@pytest.mark.parametrize("pattern", ["/etc/*.csv", "../x.csv", "data/../../x.csv"])
def test_a_pattern_that_leaves_the_project_is_refused(tmp_path, pattern):
    with pytest.raises(UsageError, match="leads out"):
        listing(DataSection(files=pattern), tmp_path)


def test_links_are_followed_and_a_circle_of_links_lists_each_file_once(tmp_path):
    project, disk = tmp_path / "project", tmp_path / "disk"
    project.mkdir()
    files(disk, "a.csv")
    os.symlink(disk, project / "data")
    assert listing(DataSection(files="data/*.csv"), project) == ["data/a.csv"]
    os.symlink(disk, disk / "round")
    assert listing(DataSection(files="data/**/*.csv"), project) == ["data/a.csv"]


def test_a_link_into_nothing_is_named(tmp_path):
    os.symlink("gone.csv", tmp_path / "a.csv")
    with pytest.raises(DataRefused, match=r"a\.csv is a link to gone\.csv"):
        listing(DataSection(files="*.csv"), tmp_path)
