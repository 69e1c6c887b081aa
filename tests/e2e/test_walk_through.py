"""docs/kubernetes.md: its commands, run as they are written, on a real cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import base_image, cluster, images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
MLFLOW = "ghcr.io/mlflow/mlflow:v3.7.0"


def commands() -> list[str]:
    text = (ROOT / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"<!-- run -->\n```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def run(command: str, folder: Path, **environ: str) -> str:
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environ},
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_walk_through_runs_as_it_is_written(tmp_path: Path) -> None:
    cluster.require()
    images.require("base", "engine", "skopeo")
    registry = cluster.registry()
    # The course's images are public ones, which are not asked here: hello is built as its README
    # says, and MLflow is the one in Treadle's own image for the hub. The registry's address is
    # written into a copy of the files; the commands stay as they are.
    folder = tmp_path / "examples/hello"
    shutil.copytree(ROOT / "examples/hello", folder)
    base = "treadle-test/debian:1"
    run(f"skopeo copy --quiet oci:{base_image.layout()}:latest docker-daemon:{base}", tmp_path)
    run(
        f"docker build --quiet --network host --build-arg BASE={base} --tag hello-mlops:1 {folder}",
        tmp_path,
    )
    run(
        f"skopeo copy --quiet --dest-tls-verify=false docker-daemon:hello-mlops:1 docker://{registry}/hello-mlops:1",
        tmp_path,
    )
    (tmp_path / "project").mkdir()
    from tests.support.projects import SPEC, houses

    project = houses(
        tmp_path / "project", spec=SPEC + f'build: {{base: "oci:{base_image.layout()}"}}\n'
    )
    treadle = f"{sys.executable} -m treadle"
    environ = {
        "TREADLE_INSECURE_REGISTRIES": registry,
        "TREADLE_CACHE": str(tmp_path / "cache"),
        "TREADLE_RECORDER": "off",
    }
    run(f"{treadle} up && {treadle} down", project, **environ)
    hub = run(f"{treadle} build --for hub --output {registry}/mlflow", project, **environ).strip()
    for path in (folder / "kubernetes").iterdir():
        text = path.read_text().replace("image: hello-mlops:1", f"image: {registry}/hello-mlops:1")
        path.write_text(text.replace(MLFLOW, hub))
    cluster.kubectl("delete", "namespace", "hello-mlops", "--ignore-not-found", "--timeout", "120s")
    said = {}
    for command in commands():
        said[command] = run(command.replace("treadle lint", f"{treadle} lint"), tmp_path)
    assert "nothing is wrong" in next(v for k, v in said.items() if k.startswith("treadle lint"))
    assert "Hello MLOps!" in said["kubectl logs hello-mlops --namespace hello-mlops"]
    assert "mlflow.db" in next(v for k, v in said.items() if k.startswith("kubectl exec"))
    got = next(v for k, v in said.items() if k.startswith("kubectl get pods,services"))
    assert "mlflow-pvc" in got
    assert "Bound" in got
