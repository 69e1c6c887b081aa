from __future__ import annotations

import pytest

from treadle.base.errors import Refused
from treadle.base.records import Model, Release
from treadle.release.release import held_release, next_number, propose


def model(content: str) -> Model:
    return Model(content, {}, "sklearn", "binary", "late", ("x",))


def release(number: int, content: str) -> Release:
    return Release(number, "local", model(content).digest, content, "run", "v", "2013", "ada")


def test_numbers_go_up_and_are_never_given_twice() -> None:
    assert next_number([]) == 1
    assert next_number([release(3, "a"), release(1, "b")]) == 4


def test_a_proposal_is_the_next_release_of_its_environment() -> None:
    made = propose(
        {},
        [release(1, "a")],
        model("b"),
        environment="local",
        run="r",
        verdict="v",
        by="ada",
        reason="its verdict is pass",
    )
    assert (made.number, made.environment, made.content) == (2, "local", "b")
    assert made.model == model("b").digest


def test_the_same_bytes_stay_held_under_a_new_number() -> None:
    releases = [release(1, "a"), release(2, "b"), release(3, "c")]
    with pytest.raises(Refused, match="release 2 is this same model, and it is held: too slow"):
        propose(
            {"2": "too slow"},
            releases,
            model("b"),
            environment="local",
            run="r",
            verdict="v",
            by="ada",
        )
    assert held_release({"2": "too slow"}, releases, "c") is None
    assert held_release({"2": "too slow"}, releases, "b") == (2, "too slow")
