"""Roll-outs on a cluster, long: ten times ten thousand requests, and fifty kills at random moments.

The seed is printed and part of an assertion's text: CRASH_SEED=N repeats the moments.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from tests.support import moves
from tests.support.on_cluster import OnCluster, projects

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
KILLS = 50


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    """Three replicas of release 1; skips where there is no cluster."""
    with projects(tmp_path_factory.mktemp("soak"), tmp_path_factory.mktemp("cache")) as make:
        found = make(", replicas: 3")
        found("up")
        yield found


def test_30_31_ten_times_ten_thousand_requests_lose_none(project: OnCluster) -> None:
    for number in range(10):
        moves.nothing_failed(moves.update_delete_and_scale_down(project, 1000 + number))


def test_28_fifty_kills_of_commands_and_pods_are_made_good(project: OnCluster) -> None:
    seed = os.environ.get("CRASH_SEED") or str(random.SystemRandom().randrange(10**6))
    source = random.Random(seed)
    release = int(project.status()["champion"])
    longest, kills = 12.0, 0
    for number in range(10 * KILLS):
        project.more_data(2000 + number)
        process = moves.begin(project)
        moment, what = source.uniform(0.3, longest), source.choice(["command", "pod", "both"])
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < began + moment:
            time.sleep(0.05)
        words = f"seed {seed}, number {number}: {what} killed after {moment:.2f} s"
        print(words)
        if process.poll() is None:
            kills += 1
            if what in ("pod", "both"):
                moves.kill_pod(project, source.choice(moves.names(project)))
            if what in ("command", "both"):
                moves.kill(process)
        else:
            longest = max(3.0, longest * 0.9)  # quicker than was thought: kill earlier
        process.communicate(timeout=300)
        release += 1
        try:
            moves.converges(project, release)
        except AssertionError as error:
            raise AssertionError(words) from error
        if kills == KILLS:
            return
    pytest.fail(f"only {kills} of {KILLS} kills came in time")
