"""The checklist of Kubernetes requirements: each item is held by tests that bear its number.

A test says by its name which items it holds: `test_12_…`, or several, `test_30_31_…`. What is not
held here says why. `python -m tests.test_checklist` prints which test holds what.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ITEMS = {
    1: "Every workload passes admission in a `restricted` namespace.",
    2: "Every container is hardened: non-root, seccomp, no capabilities, read-only root.",
    3: "No token is mounted unless the pod calls the API.",
    4: "Every container says what it requests, and its limit of memory.",
    5: "Three probes ask three things; liveness asks nobody else.",
    6: "Not ready until a warm-up prediction succeeded.",
    7: "The grace is longer than preStop, lingering and a request.",
    8: "All images are named by digest.",
    9: "The recommended labels are everywhere; selectors leave the version out.",
    10: "No `replicas` where an autoscaler decides.",
    11: "A disruption budget only with two replicas or more, and it never blocks a drain.",
    12: "Everything is denied but what is needed.",
    13: "Objects of custom kinds only where the kind is, otherwise said.",
    14: "Jobs have back-off, deadline, TTL and a failure policy; an eviction costs no retry.",
    15: "The exit code for bad input fails a Job in one attempt.",
    16: "CronJobs forbid overlapping; a slow run never meets the next.",
    17: "SQLite means one replica, Recreate and a claim; a second is refused.",
    18: "Deleting a pod loses nothing that MLflow has.",
    19: "`render` is the same bytes across runs and machines.",
    20: "Objects are valid on the oldest and the newest Kubernetes.",
    21: "A second apply changes no resourceVersion.",
    22: "A foreign manager's field is reported by name, and not forced.",
    23: "A field that is not wanted any more goes away.",
    24: "Only what the inventory has is pruned; a claim or a namespace never without a flag.",
    25: "A difference has its exit codes, and writes nothing.",
    26: "Waiting fails within 10 s of an image that cannot be pulled.",
    27: "A failed roll-out is taken back in 30 s.",
    28: "A command that is killed in the middle is made good by the next.",
    29: "A cluster is the one that the environment names, or nothing happens.",
    30: "A rolling update at 200 requests a second loses none of 10,000.",
    31: "Nor do a scale-down and a deleted pod.",
    32: "While draining each answer says `Connection: close`, and what is in flight is answered.",
    33: "Overload is 503 with Retry-After, and memory stays bounded.",
    37: "Requests are divided as the weights say, within two points of 5,000.",
    38: "A weight that is taken back is gone with the first write.",
    41: "One flipped byte in a model's file keeps the server from getting ready.",
    42: "Pickle is refused by default, and so are types that are not listed.",
    43: "The bill of materials is valid CycloneDX and names the model's digest.",
    44: "The provenance reproduces the step's key.",
    45: "No secret is in rendered objects, logs or layers.",
}
ELSEWHERE = {
    17: "no MLflow server is rendered: it comes with the hub",
    18: "the same",
}
"""Items of the list that concern what Treadle does not put on a cluster."""
_NAME = re.compile(r"test_((?:\d\d_)+)")


@functools.cache
def held() -> dict[int, list[str]]:
    """Item → the tests that bear its number, as pytest names them."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                numbers = _NAME.match(node.name)
                for number in numbers[1].split("_")[:-1] if numbers else ():
                    place = path.relative_to(TESTS.parent).as_posix()
                    found.setdefault(int(number), []).append(f"{place}::{node.name}")
    return found


@pytest.mark.parametrize("number", sorted(ITEMS))
def test_item_is_held_by_a_test_or_says_why_not(number: int) -> None:
    named = held().get(number, [])
    excused = ELSEWHERE.get(number)
    assert named or excused, f"no test bears the number of: {ITEMS[number]}"
    assert not (named and excused), f"{named[0]} holds {number}: take it off ELSEWHERE"


def test_numbers_in_names_are_items() -> None:
    """A number that slipped would make another item look held."""
    assert held().keys() <= ITEMS.keys()
    assert ITEMS.keys() == {*range(1, 34), 37, 38, *range(41, 46)}


if __name__ == "__main__":
    tests = held()
    for number, words in ITEMS.items():
        why = ELSEWHERE.get(number)
        print(f"{number}. {words}" + (f" ({why})" if why else ""))
        print("".join(f"   {one}\n" for one in tests.get(number, [])), end="")
