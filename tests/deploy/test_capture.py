"""deploy/kubernetes/capture.py against the twin of a cluster: nothing lost, nothing doubled, said."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.test_apply import WANTED, Clock, healthy
from tests.operate.test_segments import record

from treadle.base import segments
from treadle.base.errors import Refused, StateCorrupt, Unreachable
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import capture
from treadle.deploy.kubernetes import service as kubernetes
from treadle.deploy.kubernetes.wanted import SERVES

NAME, INSTANCE = "flights-production", "app.kubernetes.io/instance"


class Place:
    """A cluster with a Deployment, pods whose containers are folders here, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.cluster = MemoryCluster(healthy)
        self.home = folder / "production"
        self.folder = folder
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.between: Callable[[str], None] = lambda action: None
        """Called before each command, with `send` or `drop`."""
        kubernetes.roll_out(self.home, "here", WANTED, cluster=self.cluster)

    def pod(self, name: str) -> Path:
        """A pod that runs; the folder where it captures."""
        inside = self.folder / name
        inside.mkdir()
        self.cluster.objects["v1/Pod", "flights", name] = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "flights", "labels": {SERVES: NAME, INSTANCE: NAME}},
            "spec": {"containers": [{"name": "model"}], "volumes": [{"name": "capture"}]},
            "status": {"containerStatuses": [{"name": "model", "state": {"running": {}}}]},
        }  # fmt: skip

        def program(command: Sequence[str]) -> tuple[int, bytes, bytes]:
            self.between(command[4])
            done = subprocess.run(
                [sys.executable, *command[1:]], capture_output=True, check=False,
                env={**os.environ, "TREADLE_CAPTURE": str(inside)},
            )  # fmt: skip
            return done.returncode, done.stdout, done.stderr

        self.cluster.programs[name] = program
        return inside

    def told_to_end(self, name: str) -> None:
        self.cluster.objects["v1/Pod", "flights", name]["metadata"]["deletionTimestamp"] = "now"

    def gone(self, name: str) -> None:
        self.cluster.delete("v1/Pod", "flights", name)

    def collect(self, **more: Any) -> capture.Collected:
        return capture.collect(self.home, cluster=self.cluster, report=self.report, **more)

    def report(self, line: str, **facts: Any) -> None:
        self.said.append((line, facts))

    @property
    def warnings(self) -> list[str]:
        return [line for line, facts in self.said if facts.get("warning")]

    @property
    def ids(self) -> list[str]:
        return [one.record.id for one in segments.read_segments(self.home / "capture")]


def write(folder: Path, *numbers: int) -> None:
    writer = segments.SegmentWriter(folder, folder.name)
    writer.append([segments.encode(record(number)) for number in numbers])
    writer.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_segments_of_every_pod_come_here_and_are_not_there_any_more(place: Place) -> None:
    a, b = place.pod("a"), place.pod("b")
    write(a, 1, 2)
    write(b, 3)
    found = place.collect()
    assert (found.pods, found.segments) == (2, 2)
    assert sorted(place.ids) == [f"local.1.abc.{n}" for n in (1, 2, 3)]
    assert list(a.iterdir()) == list(b.iterdir()) == []
    assert "collected 2 segments" in place.said[-1][0]
    assert place.collect().segments == 0


def test_candidate_that_has_a_share_is_collected_from_too(place: Place) -> None:
    write(place.pod("a"), 1)
    write(place.pod("b"), 2)
    labels = place.cluster.objects["v1/Pod", "flights", "b"]["metadata"]["labels"]
    labels[INSTANCE] = f"{NAME}-candidate"
    assert place.collect().pods == 2


def test_collection_that_dies_between_is_made_good_and_doubles_nothing(place: Place) -> None:
    write(place.pod("a"), 1)

    def dies(action: str) -> None:
        if action == "drop":
            raise KeyboardInterrupt

    place.between = dies
    with pytest.raises(KeyboardInterrupt):
        place.collect()
    assert len(place.ids) == 1
    place.between = lambda action: None
    assert place.collect().segments == 1
    assert len(place.ids) == 1


@pytest.mark.parametrize("cut", [1, 100, 400])
def test_stream_that_is_cut_off_keeps_nothing_and_removes_nothing(place: Place, cut: int) -> None:
    inside = place.pod("a")
    write(inside, 1, 2, 3, 4)
    whole = place.cluster.programs["a"]
    place.cluster.programs["a"] = lambda command: (0, whole(command)[1][:cut], b"")
    with pytest.raises(Unreachable, match="cut off"):
        place.collect()
    assert place.ids == []
    assert len(list(inside.iterdir())) == 1
    place.cluster.programs["a"] = whole
    place.collect()
    assert len(place.ids) == 4


def test_bytes_that_are_not_what_they_are_said_to_be_are_refused(place: Place) -> None:
    inside = place.pod("a")
    write(inside, 1)
    whole = place.cluster.programs["a"]

    def flips(command: Sequence[str]) -> tuple[int, bytes, bytes]:
        code, data, errors = whole(command)
        return code, data.replace(b"TRDLCAP1", b"TRDLCAP2"), errors

    place.cluster.programs["a"] = flips
    with pytest.raises(StateCorrupt, match="arrived as"):
        place.collect()
    assert place.ids == []
    assert len(list(inside.iterdir())) == 1


def test_segment_of_another_content_is_not_written_over(place: Place) -> None:
    inside = place.pod("a")
    write(inside, 1)
    (name,) = os.listdir(inside)
    (place.home / "capture").mkdir()
    (place.home / "capture" / name).write_bytes(b"mine")
    with pytest.raises(StateCorrupt, match="is another one"):
        place.collect()
    assert (place.home / "capture" / name).read_bytes() == b"mine"


def test_pod_that_cannot_be_asked_is_said_and_the_others_are_asked(place: Place) -> None:
    write(place.pod("a"), 1)
    place.pod("b")
    place.cluster.programs["b"] = lambda command: (1, b"", b"no memory left")
    assert place.collect().segments == 1
    assert "what b captured is not collected" in place.warnings[0]
    assert "no memory left" in place.warnings[0]


def test_pod_that_does_not_answer_keeps_no_other_waiting(place: Place) -> None:
    write(place.pod("b"), 1)
    place.pod("a")
    answers = threading.Event()
    program = place.cluster.programs["b"]

    def b(command: Sequence[str]) -> tuple[int, bytes, bytes]:
        answer = program(command)
        if command[4] == "drop":
            answers.set()
        return answer

    def a(command: Sequence[str]) -> tuple[int, bytes, bytes]:
        assert answers.wait(20), "b was asked after a only"
        return 1, b"", b"too late"

    place.cluster.programs.update(a=a, b=b)
    place.collect()
    assert len(place.ids) == 1
    assert "what a captured is not collected" in place.warnings[0]


def test_who_may_not_is_refused(place: Place) -> None:
    place.pod("a")
    place.cluster.forbidden.add(("create", "v1/Pod/exec"))
    with pytest.raises(Refused, match="pods/exec"):
        place.collect()


def test_pods_without_the_volume_and_those_that_do_not_run_are_not_asked(place: Place) -> None:
    place.pod("old")
    place.cluster.objects["v1/Pod", "flights", "old"]["spec"]["volumes"] = [{"name": "tmp"}]
    place.pod("new")
    place.cluster.objects["v1/Pod", "flights", "new"]["status"] = {}
    assert place.collect() == capture.Collected()


def test_pod_that_went_with_what_it_captured_is_said_once(place: Place) -> None:
    write(place.pod("a"), 1)
    place.pod("idle")
    place.collect()
    place.gone("a")
    place.gone("idle")
    place.collect()
    (warning,) = place.warnings
    assert "1 pods have gone since they were last asked" in warning
    assert "(a)" in warning, "the idle one has nothing to lose"
    place.collect()
    assert len(place.warnings) == 1


def test_full_volume_is_said_with_the_number_of_requests(place: Place) -> None:
    inside = place.pod("a")
    (inside / "abc.full").write_text("17")
    place.collect()
    assert "did not keep 17 requests" in place.warnings[0]
    place.collect()
    assert len(place.warnings) == 1, "it was told"


def test_leaving_pod_is_asked_until_it_has_ended(place: Place) -> None:
    inside = place.pod("a")
    write(inside, 1)
    place.collect()
    place.told_to_end("a")
    clock, looks = Clock(), 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        clock.sleep(seconds)
        if looks == 1:  # still answering
            write(inside, 2)
        elif looks == 2:  # the server has ended, with a last segment
            write(inside, 3)
            (inside / "ended").touch()
        else:
            place.gone("a")

    found = capture.collect_leaving(
        place.home, cluster=place.cluster, report=place.report, now=clock, sleep=sleep
    )
    assert found.segments == 2
    assert len(place.ids) == 3
    place.collect()
    assert place.warnings == [], "nothing of it is lost"


@pytest.mark.parametrize("what", ["candidate", "everything"])
def test_pod_that_is_not_wanted_any_more_is_waited_for_before_the_cluster_tells_it(
    place: Place, what: str
) -> None:
    inside = place.pod("a")
    write(inside, 1)
    place.collect()
    if what == "candidate":  # of a share that has ended
        pod = place.cluster.objects["v1/Pod", "flights", "a"]
        pod["metadata"]["labels"][INSTANCE] = f"{NAME}-candidate"
    else:
        kubernetes.stop(place.home, cluster=place.cluster)
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 10:
            place.gone("a")
        elif clock.now > 5:
            write(inside, 2)
            place.told_to_end("a")

    capture.collect_leaving(
        place.home, cluster=place.cluster, report=place.report, now=clock, sleep=sleep
    )
    assert set(place.ids) == {"local.1.abc.1", "local.1.abc.2"}


def ends_while_asked(command: Sequence[str]) -> tuple[int, bytes, bytes]:
    """As a command in a container that is stopped."""
    return 137, b"", b""


def test_leaving_pod_that_ends_while_it_is_asked_is_no_reason_to_warn(place: Place) -> None:
    place.pod("a")
    place.told_to_end("a")
    place.cluster.programs["a"] = ends_while_asked
    assert place.collect(leaving=True) == capture.Collected()
    place.gone("a")
    place.collect()
    assert place.warnings == []


def test_leaving_pod_that_stays_and_cannot_be_asked_is_said(place: Place) -> None:
    place.pod("a")
    place.told_to_end("a")
    place.cluster.programs["a"] = ends_while_asked
    place.collect(leaving=True)
    with pytest.raises(Refused, match="137"):
        place.collect(leaving=True)
    assert "what a captured is not collected" in place.warnings[0]


def test_leaving_pod_that_could_not_be_asked_once_is_asked_again(place: Place) -> None:
    write(place.pod("a"), 1)
    program = place.cluster.programs["a"]
    place.told_to_end("a")
    place.cluster.programs["a"] = ends_while_asked
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        place.cluster.programs["a"] = program

    capture.collect_leaving(place.home, cluster=place.cluster, report=place.report, now=clock, sleep=sleep, limit_s=6)  # fmt: skip
    assert len(place.ids) == 1
    assert place.warnings == []


def test_leaving_pods_that_captured_nothing_are_not_waited_for(place: Place) -> None:
    place.pod("a")
    place.collect()
    place.told_to_end("a")

    def sleep(seconds: float) -> None:
        raise AssertionError("waited")

    found = capture.collect_leaving(
        place.home, cluster=place.cluster, report=place.report, sleep=sleep
    )
    assert found == capture.Collected(pods=1)
    assert place.said == []


def test_waiting_for_leaving_pods_has_an_end(place: Place) -> None:
    write(place.pod("a"), 1)
    place.told_to_end("a")
    clock = Clock()
    capture.collect_leaving(
        place.home, cluster=place.cluster, report=place.report, now=clock, sleep=clock.sleep
    )
    assert clock.now < 100
    assert "still answer" in place.said[-1][0]


def test_what_pods_have_is_collected_beside_a_roll_out(place: Place) -> None:
    write(place.pod("a"), 1)
    with capture.beside(place.home, cluster=place.cluster, report=place.report):
        pass
    assert len(place.ids) == 1


def test_what_cannot_be_collected_beside_a_roll_out_is_said_and_stops_nothing(
    place: Place,
) -> None:
    place.pod("a")
    place.cluster.forbidden.add(("create", "v1/Pod/exec"))
    with capture.beside(place.home, cluster=place.cluster, report=place.report):
        pass
    assert "is not collected: not allowed" in place.warnings[-1]


def test_environment_that_was_never_rolled_out_has_nothing_to_collect(tmp_path: Path) -> None:
    assert capture.collect(tmp_path) == capture.Collected()
    assert capture.collect_leaving(tmp_path) == capture.Collected()


def test_look_that_fails_beside_a_roll_out_is_followed_by_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place.pod("a"), 1)
    monkeypatch.setattr(capture, "_LOOK_S", 0.01)
    place.cluster.forbidden.add(("create", "v1/Pod/exec"))
    with capture.beside(place.home, cluster=place.cluster, report=place.report):
        until = time.monotonic() + 20
        while not place.warnings and time.monotonic() < until:
            time.sleep(0.01)
        place.cluster.forbidden.clear()
        while not place.ids and time.monotonic() < until:
            time.sleep(0.01)
    assert len(place.ids) == 1


def test_look_that_fails_at_leaving_pods_is_followed_by_others(place: Place) -> None:
    inside = place.pod("a")
    write(inside, 1)
    place.collect()
    write(inside, 2)
    place.told_to_end("a")
    place.cluster.forbidden.add(("create", "v1/Pod/exec"))
    clock, looks = Clock(), 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        clock.sleep(seconds)
        place.cluster.forbidden.clear()
        if looks > 1:
            place.gone("a")

    capture.collect_leaving(
        place.home, cluster=place.cluster, report=place.report, now=clock, sleep=sleep
    )
    assert len(place.ids) == 2
