"""examples/hello: the commands of its README, run by plain Docker against a real registry."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.support import base_image, images, registry

HELLO = Path(__file__).parents[2] / "examples/hello"
pytestmark = [pytest.mark.images, pytest.mark.timeout(300)]


def commands() -> list[str]:
    block = re.search(
        r"<!-- run: docker -->\n```console\n(.*?)```", (HELLO / "README.md").read_text(), re.DOTALL
    )
    assert block is not None
    return [line[2:] for line in block[1].splitlines() if line.startswith("$ ")]


def test_image_is_built_run_tagged_and_pushed_as_its_readme_says(tmp_path: Path) -> None:
    images.require("engine", "registry", "base", "skopeo")
    base = "treadle-test/debian:1"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{base_image.layout()}:latest", f"docker-daemon:{base}"],
        check=True,
    )  # fmt: skip
    said = []
    with registry.registry(tmp_path) as address:
        for command in commands():
            # The base of this machine, and its network: no public registry is asked.
            command = command.replace(
                "docker build", f"docker build --network host --build-arg BASE={base}"
            ).replace("localhost:5000", address)
            done = subprocess.run(
                command, shell=True, cwd=HELLO, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done.stderr)
            said.append(done.stdout)
        assert said[1] == "Hello MLOps!\n"
        with urllib.request.urlopen(f"http://{address}/v2/hello-mlops/tags/list") as answer:
            assert json.loads(answer.read())["tags"] == ["1"]
