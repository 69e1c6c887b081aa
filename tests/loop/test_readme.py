"""The README's example works as it is written: its blocks are taken from it and run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.projects import houses_csv, treadle

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_example_turns_as_it_is_written(tmp_path: Path) -> None:
    text = README.read_text()
    files = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL)
    commands = re.findall(r"<!-- run -->\n```console\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["pipeline.py", "treadle.yaml"]
    for name, block in files:
        (tmp_path / name).write_text(block)
    (tmp_path / "houses.csv").write_text(houses_csv())
    lines = [line.removeprefix("$ ") for block in commands for line in block.splitlines()]
    assert len(lines) >= 5
    try:
        for line in lines:
            done = treadle(tmp_path, *line.split()[1:])
            assert done.code == 0, (line, done)
            assert done.out.strip(), line
    finally:
        treadle(tmp_path, "down")
