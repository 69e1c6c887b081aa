"""`treadle lint` as a person calls it: what is said, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.plan.test_lint import POD
from tests.support.projects import treadle

pytest.importorskip("kubernetes_validate")
UNUSED = POD.replace("spec:\n", "spec:\n  volumes: [{name: data, emptyDir: {}}]\n")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (POD, 0, "nothing is wrong"),
        (UNUSED, 0, "warning: no container mounts the volume `data`"),
        (POD.replace("nginx:1.27", "nginx"), 1, "the image has no tag"),
    ],
)
def test_warnings_alone_fail_nothing(tmp_path: Path, text: str, code: int, said: str) -> None:
    (tmp_path / "pod.yaml").write_text(text)
    ran = treadle(tmp_path, "lint", "pod.yaml")
    assert ran.code == code, ran
    assert said in ran.out


def test_warnings_and_mistakes_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(UNUSED.replace("nginx:1.27", "nginx"))
    ran = treadle(tmp_path, "lint", "pod.yaml")
    assert "1 thing wrong, 1 warning in 1 file" in ran.err
    found = treadle(tmp_path, "lint", "pod.yaml", "--json").json["findings"]
    assert sorted(one["warning"] for one in found) == [False, True]
