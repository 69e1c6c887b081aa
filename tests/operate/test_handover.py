"""operate/handover.py and health.py: one socket for servers that come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.base.errors import Unreachable
from treadle.operate import handover, health


def start(*arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "treadle.operate", *arguments], text=True, stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )  # fmt: skip


def line(process: subprocess.Popen[str], wanted: str) -> str:
    """The line of its log with these words."""
    assert process.stderr is not None
    for text in process.stderr:
        if wanted in text:
            return text
    raise AssertionError(f"it ended without saying {wanted!r}")


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = start("hold", str(tmp_path / "l.sock"), "--host", "127.0.0.1", "--port", "0")
    port = int(line(process, "holding").split()[-6].rpartition(":")[2])
    yield process, port
    end(process)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from tests.support.projects import houses, treadle

    folder = houses(tmp_path / "project")
    ran = treadle(folder, "train")
    assert ran.code == 0, ran
    code = (
        "from treadle.loop.project import open_project\n"
        "p = open_project(create=False)\n"
        "print(p.state.model_folder(p.journal.list('model')[0][1]['content']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def serve(model: Path, tmp_path: Path, release: int) -> subprocess.Popen[str]:
    process = start(
        "serve", str(model), TREADLE_LISTENER=str(tmp_path / "l.sock"), TREADLE_RELEASE=str(release),
        TREADLE_PROBE=str(tmp_path / f"{release}.sock"), TREADLE_LINGER="0.2",
    )  # fmt: skip
    line(process, "serves on")
    return process


def version(port: int) -> str:
    body = json.dumps({"dataframe_records": [{"area": 100, "rooms": 3}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["X-Model-Version"]


def test_servers_take_the_socket_one_after_the_other(
    holder: tuple[subprocess.Popen[str], int], model: Path, tmp_path: Path
) -> None:
    _, port = holder
    first = serve(model, tmp_path, 1)
    assert version(port) == "1"
    assert health.check({"TREADLE_PROBE": str(tmp_path / "1.sock")}) == 0
    second = serve(model, tmp_path, 2)
    first.send_signal(signal.SIGUSR2)
    assert first.wait(20) == 0
    assert {version(port) for _ in range(5)} == {"2"}
    assert health.check({"TREADLE_PROBE": str(tmp_path / "1.sock")}) == 1
    end(first, second)


def test_server_ends_when_its_holder_has_ended(
    holder: tuple[subprocess.Popen[str], int], model: Path, tmp_path: Path
) -> None:
    server = serve(model, tmp_path, 1)
    holder[0].kill()
    assert server.wait(20) == 0
    end(server)


def test_holder_that_is_told_to_ends_and_leaves_no_socket(
    holder: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    holder[0].send_signal(signal.SIGTERM)
    assert holder[0].wait(10) == 0
    assert not (tmp_path / "l.sock").exists()


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody hands out"):
        handover.take(tmp_path / "absent.sock", wait_s=0.2)


def test_health_of_nothing_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert health.check({"TREADLE_PORT": "1"}, wait_s=0.2) == 1
    assert time.monotonic() - began >= 0.2
    assert "not ready" in capsys.readouterr().out
