"""release/attest.py: what is said about an image beside it."""

from __future__ import annotations

import json

import pytest
from tests.build.test_image import plan

from treadle.base.image import Wheel
from treadle.base.plain import to_plain
from treadle.code.cache import step_key
from treadle.release import attest
from treadle.release.attest import Facts

DEPENDS = {"code model()": "sha256:aa", "param model.rate": "0.1", "input train": "sha256:bb"}
FACTS = Facts(
    "sha256:" + "1" * 64, "serve", "linux/amd64", to_plain(plan()),
    (Wheel("numpy", "2.4.6+x", "numpy-2.4.6.whl", "a" * 64, 17),), "python:3.12-slim", "flights",
    "sha256:" + "c" * 64, {"model.skops": "sha256:" + "d" * 64}, 3, "RUN",
    {"steps": {"model": {"key": step_key("model", DEPENDS), "depends": DEPENDS}},
     "snapshots": {"flights": "sha256:" + "e" * 64}, "parameters": {"model.rate": 0.1}, "commit": "abc"},
)  # fmt: skip


def test_43_bill_of_materials_validates_and_names_the_model_digest() -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    data = json.dumps(attest.sbom(FACTS))
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(data) is None
    (model,) = [
        c for c in attest.sbom(FACTS)["components"] if c["type"] == "machine-learning-model"
    ]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert [part["name"] for part in model["components"]] == ["model.skops"]


def test_44_provenance_reproduces_the_step_key() -> None:
    statement = json.loads(dict((k, d) for k, d, _ in attest.documents(FACTS))[attest.PROVENANCE])
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    steps = attest.steps_of(statement)
    assert steps
    for name, told in steps.items():
        assert step_key(name, told["depends"]) == told["key"]


def test_provenance_names_all_that_went_in() -> None:
    told = attest.provenance(FACTS)["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = {one["digest"]["sha256"] for one in told}
    assert {"a" * 64, "c" * 64, "e" * 64, "b" * 64} <= digests


def test_documents_depend_on_content_alone_but_for_the_release() -> None:
    import dataclasses

    other = dataclasses.replace(FACTS, release=9, run="OTHER")
    first, second = attest.documents(FACTS), attest.documents(other)
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert attest.documents(FACTS) == first


def test_folder_in_which_a_base_lies_is_not_told() -> None:
    import dataclasses

    told = [
        attest.documents(dataclasses.replace(FACTS, base_name=f"oci:{folder}bases/debian:1"))
        for folder in ("/home/somebody/", "../")
    ]
    assert told[0] == told[1]
    assert b"debian:1" in told[0][0][1]


def test_code_is_among_what_went_in() -> None:
    import dataclasses

    known = dataclasses.replace(plan(), annotations={"code": "sha256:" + "9" * 64})
    statement = attest.provenance(dataclasses.replace(FACTS, plan=to_plain(known)))
    told = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "code", "digest": {"sha256": "9" * 64}} in told


def test_model_directory_without_a_release_has_two_documents() -> None:
    import dataclasses

    assert len(attest.documents(dataclasses.replace(FACTS, release=None))) == 2
