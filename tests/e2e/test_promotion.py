"""`treadle promote`: what runs in one environment becomes the champion of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.e2e.conftest import Project

TWO = ("local: {target: process, port: 0}", "local: {target: process, port: 0}\n  production: {target: process, port: 0}")  # fmt: skip


@pytest.fixture
def two(copy: Callable[[], Project]) -> Project:
    """Release 1 is champion of local; production has none yet."""
    project = copy()
    project.edit("treadle.yaml", TWO)
    return project


@pytest.fixture
def stopped(two: Project):
    yield two
    two("down", "--env", "production", code=None)


def test_champion_is_promoted_without_training_and_answers_there(stopped: Project) -> None:
    ran = stopped("promote", "--from", "local", "--env", "production", "--yes", "--json")
    assert (ran.json["release"], ran.json["source_release"], ran.json["before"]) == (1, 1, None)
    answer = stopped("predict", "houses.csv", "-n", "1", "--env", "production", "--json").json
    assert answer["ids"][0].startswith("production.1.")
    mine = stopped("ledger", "--env", "production", "--json").json["decisions"]
    assert [d["kind"] for d in mine] == ["deploy", "promote"]
    assert mine[1]["evidence"]["from"] == {"environment": "local", "release": 1}
    links = stopped("lineage", answer["ids"][0], "--json").json["links"]
    assert "data" in {link["kind"] for link in links}
    kept = stopped("plan", "--env", "production", "--json").json["plan"]["actions"]
    assert {a["action"] for a in kept if a["phase"] in ("release", "deploy")} == {"keep"}


def test_preview_changes_nothing(two: Project) -> None:
    before = two.ledger()
    ran = two("promote", "--from", "local", "--env", "production", "--dry-run")
    assert "local release 1" in ran.out
    assert "production release 1" in ran.out
    assert two.ledger() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "production", "--env", "local"), "production has no champion to promote"),
        (("--from", "local", "--env", "local"), "cannot be promoted from itself"),
        (("--from", "local", "--env", "production", "--release", "7"), "has no release 7"),
        (("--from", "lokal", "--env", "production"), "no environment `lokal`"),
    ],
)
def test_what_cannot_be_promoted_is_said(
    two: Project, arguments: tuple[str, ...], said: str
) -> None:
    assert said in two("promote", *arguments, "--yes", code=2).err


def test_share_of_the_requests_needs_a_cluster(two: Project) -> None:
    for command in (
        ("traffic", "--release", "1", "--weight", "10", "--yes"),
        ("traffic",),
        ("promote", "--from", "local", "--env", "production", "--weight", "10", "--yes"),
    ):
        ran = two(*command, code=2)
        assert "is no Kubernetes environment" in ran.err, ran
    assert "belong to --weight" in two("traffic", "--release", "1", code=2).err
