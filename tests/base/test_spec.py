from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from treadle.base.spec import (
    SECTIONS,
    BatchTarget,
    Capture,
    DataSection,
    DockerTarget,
    FalseAlarms,
    GateSection,
    Incremental,
    KubernetesTarget,
    ModelSection,
    MonitorSection,
    ProcessTarget,
    RetrainSection,
    Spec,
    TestSection,
    Truth,
)  # fmt: skip

MODEL = ModelSection("model", "binary", "late")
DATA = {"flights": DataSection(files="data/*.parquet")}


def cluster(**more: Any) -> KubernetesTarget:
    return KubernetesTarget("kubernetes", "minikube", "checkout", **more)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataSection(), "none of them"),
        (lambda: DataSection(files="a", query="b", database="c"), "files and query"),
        (lambda: DataSection(query="b"), "belong together"),
        (lambda: DataSection(files="a", database="b"), "belong together"),
        (lambda: DataSection(files="a", incremental=Incremental("x")), "belongs to a query"),
        (lambda: Incremental("x", "7"), "no duration"),
        (lambda: GateSection("mae"), "none of them"),
        (lambda: GateSection("mae", at_least=1, at_most=2), "at_least and at_most"),
        (lambda: GateSection("mae", versus="champion", margin=-1), "negative"),
        (lambda: GateSection("mae", at_least=1, margin=1), "belongs to"),
        (lambda: TestSection(blocks="1 day"), "no duration"),
        (lambda: ProcessTarget("process", 65536), "0 to 65535"),
        (lambda: ProcessTarget("process", -1), "0 to 65535"),
        (lambda: ProcessTarget("process", workers=0), "1 to 64"),
        (lambda: DockerTarget("docker", 65536), "0 to 65535"),
        (lambda: DockerTarget("docker", memory="lots"), "512m"),
        (lambda: DockerTarget("docker", cpus=0), "more than 0"),
        (lambda: DockerTarget("docker", gpus=0), "`all` or a number"),
        (lambda: DockerTarget("docker", gpus="some"), "`all` or a number"),
        (lambda: cluster(scale_down_stabilization="1m"), "for a range of replicas"),
        (lambda: cluster(replicas="2..4", scale_down_stabilization="2h"), "at most 1h"),
        (lambda: cluster(replicas="2..4", scale_down_stabilization="1500ms"), "whole seconds"),
        (lambda: cluster(replicas="2..4", scale_down_stabilization="soon"), "no duration"),
        (lambda: FalseAlarms(0), "> 0"),
        (lambda: FalseAlarms(per="x"), "no duration"),
        (lambda: Truth("a", "x"), "no duration"),
        (lambda: Capture(1.5), "0 to 1"),
        (lambda: MonitorSection(window="x"), "no duration"),
        (lambda: RetrainSection(every="x"), "no duration"),
        (lambda: RetrainSection(cooldown="x"), "no duration"),
        (lambda: Spec("Flights", DATA, MODEL), "no project name"),
    ],
)
def test_a_section_that_contradicts_itself_is_a_value_error(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_spec_of_three_words_is_whole():
    spec = Spec("flights", DATA, MODEL)
    assert spec.default_environment == "local"
    assert spec.place("local") == "local"
    assert spec.training_data() == "flights"
    assert spec.retrain is None


def test_a_batch_environment_lives_at_the_place_of_the_one_it_names():
    spec = Spec("flights", DATA, MODEL, deploy={
        "prod": ProcessTarget("process"), "nightly": BatchTarget("batch", "prod", "a", "b"),
    })  # fmt: skip
    assert spec.place("nightly") == "prod"
    assert spec.default_environment == "prod"


def test_the_training_data_is_what_is_not_the_truth():
    data = {**DATA, "arrivals": DataSection(files="truth/*.parquet")}
    assert Spec("x", data, MODEL).training_data() is None
    monitor = MonitorSection(truth=Truth("arrivals"))
    assert Spec("x", data, MODEL, monitor=monitor).training_data() == "flights"


def test_every_section_is_frozen_and_refuses_unknown_words():
    for section in SECTIONS:
        assert dataclasses.fields(section)
        assert section.__dataclass_params__.frozen
        assert section.__pydantic_config__ == {"extra": "forbid", "strict": True}
