"""What `make up` does: one whole turn on the real flights, in a copy of the example."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.e2e.conftest import Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights"


@pytest.mark.timeout(300)
def test_one_turn_on_the_flights_ends_in_a_served_model_and_a_prediction_in_its_data(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "flights")
    shutil.copytree(
        EXAMPLE, project.folder, ignore=shutil.ignore_patterns(".treadle", "later", "__pycache__")
    )
    project.edit("treadle.yaml", ("port: 8080", "port: 0"))
    try:
        ran = project("up")
        assert "verdict pass" in ran.out
        assert "release 1 of local" in ran.out
        command = ran.out.split("next: treadle ")[1].split()
        assert command[0] == "predict"
        answer = project(*command, "--json").json
        assert all(sum(shares) == pytest.approx(1) for shares in answer["predictions"])
        links = project("lineage", answer["ids"][0], "--json").json["links"]
        (data,) = [link for link in links if link["kind"] == "data"]
        assert len(data["facts"]["files"]) == 4, "January to April"
        leak = project.folder / "treadle.yaml"
        # What is known only later is never learned from, and the check names it.
        text = leak.read_text()
        start = text.index("features: [") + len("features: [")
        leak.write_text(text[:start] + "dep_delay, " + text[start:])
        refused = project("train", code=None)
        assert refused.code in (1, 2, 3), refused
        assert "dep_delay" in refused.err + refused.out
        leak.write_text(text)
        assert "nothing to do" in project("up").out
    finally:
        project("down", code=None)
