"""Images: a new model, a first build, sizes and starts, beside Docker's builder and other tools.

    python benchmarks/images.py [--rounds 5] [--without-peers] [--only peers] [--large-mb 2000]

Everything runs in one go against a registry (Debian's docker-registry) and a Docker engine on this
machine; `make test-images` brings both. The base is Debian with its Python, made here. Each figure is
of a whole process, start included; rounds are interleaved. The images of peers are built from wheels
downloaded before, without nginx or apt packages, which flatters them. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import base_image, registry  # noqa: E402

OLD = shutil.which("docker", path="/usr/bin") or shutil.which("docker")
"""Debian's client has BuildKit's own client in it; a newer one needs the buildx plugin."""
TREADLE = [sys.executable, "-m", "treadle"]
MLFLOW = ["mlflow==3.17.2", "gunicorn[gevent]"]
FLIGHTS = ["scikit-learn", "skops", "pandas", "numpy", "scipy"]


@dataclass
class Row:
    """One thing measured."""

    what: str
    target: float | None = None
    unit: str = "s"
    values: list[float] = field(default_factory=list)
    note: str = ""

    def text(self) -> str:
        if not self.values:
            return f"| {self.what} | – | {_target(self)} | – | {self.note} |"
        middle = statistics.median(self.values)
        spread = f" [{min(self.values):.2f}–{max(self.values):.2f}]" if len(self.values) > 1 else ""
        reached = "–" if self.target is None else ("yes" if middle <= self.target else "**no**")
        return f"| {self.what} | {middle:.2f}{spread} {self.unit} | {_target(self)} | {reached} | {self.note} |"


def _target(row: Row) -> str:
    return "–" if row.target is None else f"≤ {row.target:g} {row.unit}"


PEAK = """
import os, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
import resource
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(done.returncode)
"""
"""Started between: a process's peak counts what its parent had when it forked."""


def timed(*command: str, cwd: Path | None = None, **environ: str) -> tuple[float, str]:
    """Wall seconds, standard output."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environ},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, folder: Path, address: str, rounds: int) -> None:
        self.folder, self.address, self.rounds = folder, address, rounds
        self.base = f"oci:{base_image.layout()}"
        # The port sets runs beside one another apart.
        self.image = f"treadle-bench/base:{address.rpartition(':')[2]}"
        self.cache = folder / "cache"
        self.rows: dict[str, Row] = {}

    def treadle(self, *arguments: str, cwd: Path | None = None, cache: Path | None = None):
        return timed(*TREADLE, *arguments, cwd=cwd or self.folder,
                     TREADLE_CACHE=str(cache or self.cache), TREADLE_RECORDER="off")  # fmt: skip

    def row(
        self, key: str, what: str, target: float | None = None, unit: str = "s", note: str = ""
    ) -> Row:
        return self.rows.setdefault(key, Row(what, target, unit, note=note))

    def clean(self) -> None:
        """Takes out of the engine what was put into it: dozens of images of half a gigabyte."""
        listed = timed("docker", "images", "--format", "{{.Repository}}:{{.Tag}}")[1].split()
        ours = [n for n in listed if n == self.image or n.startswith(f"{self.address}/")]
        if ours:
            subprocess.run(["docker", "rmi", *ours], stdout=subprocess.DEVNULL, check=False)

    def report(self, same: str) -> None:
        """The table so far: a step that fails does not lose what was measured."""
        print("| what | found | asked | reached | |\n|---|---|---|---|---|")
        print(
            "| same digest from another directory, umask, time zone, language, user, uv cache and "
            f"layer cache | {same} | yes | {same} | |"
        )
        for row in self.rows.values():
            print(row.text(), flush=True)

    # ---- the flights -----------------------------------------------------------------------------

    def prepare(self) -> None:
        say("turning the flights once")
        self.flights = self.folder / "flights"
        shutil.copytree(ROOT / "examples/flights", self.flights,
                        ignore=shutil.ignore_patterns(".treadle", "data.schema.yaml"))  # fmt: skip
        text = (self.flights / "treadle.yaml").read_text().replace("port: 8080", "port: 0")
        (self.flights / "treadle.yaml").write_text(text + f'build: {{base: "{self.base}"}}\n')
        self.treadle("up", cwd=self.flights)
        self.treadle("down", cwd=self.flights)
        (self.model,) = (self.flights / ".treadle/models").iterdir()
        self.treadle("build", "--output", f"oci:{self.folder / 'warm'}", cwd=self.flights)
        subprocess.run(["skopeo", "copy", "--quiet", f"{self.base}:latest",
                        f"docker-daemon:{self.image}"], check=True)  # fmt: skip

    def same_digest(self) -> str:
        say("the same image from another checkout")
        _, first = self.treadle("build", "--output", f"oci:{self.folder / 'd1'}", cwd=self.flights)
        other = self.folder / "somewhere else"
        shutil.copytree(self.flights, other)
        program = "import os, sys; os.umask(0o077)\nfrom treadle.cli import main\nsys.exit(main())"
        user: list[str] = []
        if os.getuid() == 0 and shutil.which("setpriv"):
            # nobody: may read this Python, and write what is its own
            self.folder.chmod(0o777)
            timed("chown", "--recursive", "65534:65534", str(other))
            user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                    "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # fmt: skip
        _, second = timed(
            *user, sys.executable, "-c", program, "build", "--output", f"oci:{self.folder / 'd2'}", cwd=other,
            TREADLE_CACHE=str(self.folder / "other cache"), TZ="Asia/Tokyo", LC_ALL="POSIX",
            USER="nobody", HOME=str(other), UV_CACHE_DIR=str(self.folder / "uv"), PYTHONHASHSEED="4",
        )  # fmt: skip
        return "yes" if first.rpartition("@")[2] == second.rpartition("@")[2] else "**no**"

    def builds(self) -> None:
        first = self.row("first", "first build, wheels downloaded, no layer cached", 30)
        cached = self.row("cached", "build with cached layers, to a registry that has none", 5)
        same = self.row("same", "nothing changed", 0.5, note="no blob sent")
        for number in range(min(self.rounds, 3)):
            say(f"builds, round {number + 1}")
            fresh = self.folder / f"fresh-{number}"
            fresh.mkdir()
            shutil.copytree(self.cache / "wheels", fresh / "wheels")
            first.values.append(
                self.treadle(
                    "build",
                    "--output",
                    f"oci:{self.folder / f'f{number}'}",
                    cwd=self.flights,
                    cache=fresh,
                )[0]
            )
            output = f"{self.address}/flights-{number}"
            cached.values.append(self.treadle("build", "--output", output, cwd=self.flights)[0])
            seconds, out = self.treadle("build", "--output", output, "--json", cwd=self.flights)
            told = json.loads(out)
            if told["sent_bytes"] or told["blobs"]:
                same.note = f"**sent {told['sent_bytes']} bytes**"
            same.values.append(seconds)

    # ---- a new model -----------------------------------------------------------------------------

    def changes(self, mb: int, target: float) -> None:
        """A model of `mb` MB of noise is replaced by another."""
        place = self.folder / f"model-{mb}"
        shutil.copytree(self.model, place)
        context = self.folder / f"context-{mb}"
        noise = place / "weights.bin"
        noise.write_bytes(os.urandom(mb << 20))
        self.treadle("build", str(place), "--base", self.base, "--dockerfile", str(context))
        for wheel in (self.cache / "wheels").rglob("*.whl"):
            shutil.copy(wheel, context / "wheels")
        last = (context / "Dockerfile").read_text()
        copies = [
            line
            for line in last.splitlines()
            if line.startswith(("COPY model.json", "COPY models"))
        ]
        first = last.replace(
            "FROM ${BASE} AS packages\n", "FROM ${BASE} AS packages\n" + "\n".join(copies) + "\n"
        )
        (context / "Dockerfile.before").write_text(first)
        ours = self.row(f"ours-{mb}", f"new model of {mb} MB: treadle build, pushed", target)
        theirs = self.row(
            f"buildkit-{mb}", f"new model of {mb} MB: BuildKit, model copied last, docker push"
        )
        before = self.row(f"before-{mb}", f"new model of {mb} MB: BuildKit, model copied before the packages",
                          note="the order of `mlflow models build-docker`; wheels unpacked, not installed")  # fmt: skip
        self.treadle("build", str(place), "--base", self.base, "--output", f"{self.address}/m{mb}")
        names = {"last": f"{self.address}/last{mb}", "before": f"{self.address}/before{mb}"}
        for number in range(self.rounds + 1):  # the first warms every cache
            say(f"{mb} MB, round {number}")
            data = os.urandom(mb << 20)
            noise.write_bytes(data)
            (context / "models/weights.bin").write_bytes(data)
            os.sync()
            seconds = self.treadle(
                "build", str(place), "--base", self.base, "--output", f"{self.address}/m{mb}"
            )[0]
            with_docker = [self.docker(context, "Dockerfile", names["last"], number)]
            if number < 3:
                with_docker.append(
                    self.docker(context, "Dockerfile.before", names["before"], number)
                )
            if number:
                ours.values.append(seconds)
                theirs.values.append(with_docker[0])
                before.values += with_docker[1:]

    def docker(self, context: Path, file: str, name: str, number: int) -> float:
        assert OLD is not None
        tag = f"{name}:{number}"
        build = timed(OLD, "build", "--quiet", "--build-arg", f"BASE={self.image}", "--file",
                      str(context / file), "--tag", tag, str(context), DOCKER_BUILDKIT="1")[0]  # fmt: skip
        return build + timed(OLD, "push", "--quiet", tag)[0]

    # ---- memory ----------------------------------------------------------------------------------

    def memory(self, mb: int) -> None:
        say(f"pushing a model of {mb} MB")
        place = self.folder / "large"
        shutil.copytree(self.model, place)
        with open(place / "weights.bin", "wb") as file:
            file.writelines(os.urandom(50 << 20) for _ in range(mb // 50))
        row = self.row(
            "memory", f"peak memory while building and pushing a model of {mb} MB", 100, "MB"
        )
        seconds, peak = timed(
            sys.executable, "-c", PEAK, *TREADLE, "build", str(place), "--base", self.base, "--output",
            f"{self.address}/large", TREADLE_CACHE=str(self.cache),
        )  # fmt: skip
        row.values.append(float(peak))
        row.note = f"{seconds:.1f} s in all"
        shutil.rmtree(place)

    # ---- peers' images ---------------------------------------------------------------------------

    def peers(self) -> None:
        pins = (self.model / "requirements.txt").read_text().split()
        server = self.folder / "service"
        server.mkdir()
        (server / "fastapi_app.py").write_text(FASTAPI)
        (server / "bento_app.py").write_text(BENTO)
        kinds = {
            "MLflow": ([*MLFLOW, *pins], ["python3", "-m", "mlflow", "models", "serve", "-m", "/model",
                                          "--env-manager", "local", "-h", "0.0.0.0", "-p", "8080"]),
            "BentoML": (["bentoml==1.4.39", *pins], ["python3", "-m", "bentoml", "serve", "bento_app:Late", "-p", "8080"]),
            "FastAPI by hand": (["fastapi", "uvicorn[standard]", *pins],
                                ["python3", "-m", "uvicorn", "fastapi_app:app", "--host", "0.0.0.0", "--port", "8080"]),
        }  # fmt: skip
        body = (self.model / "serving_input_example.json").read_bytes()
        sizes: dict[str, float] = {}
        output = f"{self.address}/flights-size"
        self.treadle("build", "--output", output, cwd=self.flights)
        sizes["treadle"] = self.size("flights-size")
        base = (
            sum(json.loads(p.read_bytes())["layers"][0]["size"] for p in [self._base_manifest()])
            / 1e6
        )
        self.row("base", "the base alone, compressed", None, "MB").values.append(base)
        self.row("size-ours", "flights image: treadle", None, "MB").values.append(sizes["treadle"])
        reference = self.treadle("build", "--output", "docker", cwd=self.flights)[1].strip()
        start = self.row("start-ours", "container start to first right answer: treadle")
        for _ in range(3):
            start.values.append(self.start(reference, body, []))
        for name, (packages, command) in kinds.items():
            key = name.split()[0].lower()
            size = self.row(f"size-{key}", f"flights image: {name}", None, "MB")
            begin = self.row(f"start-{key}", f"container start to first right answer: {name}")
            try:
                tag = self.build_peer(key, packages, command, server)
                timed("docker", "push", "--quiet", tag)
                sizes[name] = self.size(f"peer-{key}")
                size.values.append(sizes[name])
                for _ in range(3):
                    begin.values.append(self.start(tag, body, []))
            except (SystemExit, OSError) as error:
                size.note = begin.note = str(error).splitlines()[0][:120]
        if "MLflow" in sizes:
            share = self.row(
                "share", "flights image: ours / MLflow's", 50, "%", "base included in both"
            )
            share.values.append(100 * sizes["treadle"] / sizes["MLflow"])
            own = self.row("share-own", "the same without the base", None, "%")
            own.values.append(100 * (sizes["treadle"] - base) / (sizes["MLflow"] - base))

    def _base_manifest(self) -> Path:
        layout = base_image.layout()
        digest = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
        return layout / "blobs/sha256" / digest[7:]

    def build_peer(
        self, key: str, packages: Sequence[str], command: Sequence[str], server: Path
    ) -> str:
        say(f"building the image of {key}")
        context = self.folder / f"peer-{key}"
        (context / "wheels").mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                        "--only-binary", ":all:", "--dest", str(context / "wheels"), "pip", *packages],
                       check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)  # fmt: skip
        shutil.copytree(self.model, context / "model")
        shutil.copytree(server, context / "service")
        quoted = " ".join(f"'{one}'" for one in packages)
        (context / "Dockerfile").write_text(
            f"FROM {self.image} AS packages\nCOPY wheels /wheels\n"
            f"RUN python3 $(echo /wheels/pip-*.whl)/pip install --quiet --no-index --find-links /wheels --target /packages {quoted}\n"
            f"FROM {self.image}\nCOPY --from=packages /packages /packages\nENV PYTHONPATH=/packages HOME=/tmp PATH=/packages/bin:/usr/bin:/bin\n"
            "COPY service /service\nWORKDIR /service\nCOPY model /model\nUSER 65532\nCMD " + json.dumps(command) + "\n"
        )  # fmt: skip
        tag = f"{self.address}/peer-{key}:1"
        timed(
            "docker",
            "build",
            "--quiet",
            "--network",
            "none",
            "--tag",
            tag,
            str(context),
            DOCKER_BUILDKIT="0",
        )
        return tag

    def size(self, name: str) -> float:
        """Compressed MB in the registry."""
        tags = json.loads(self.get(f"/v2/{name}/tags/list"))["tags"]
        tag = next(one for one in tags if not one.startswith("sha256-"))
        told = json.loads(self.get(f"/v2/{name}/manifests/{tag}"))
        return sum(layer["size"] for layer in told["layers"]) / 1e6

    def get(self, path: str) -> bytes:
        kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        request = urllib.request.Request(f"http://{self.address}{path}", headers={"Accept": kinds})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def start(self, image: str, body: bytes, more: Sequence[str]) -> float:
        """Seconds from `docker run` to the first answer that has predictions."""
        began = time.perf_counter()
        name = timed("docker", "run", "--detach", "--publish", "127.0.0.1:0:8080", image, *more)[
            1
        ].strip()
        try:
            told = json.loads(timed("docker", "inspect", name)[1])[0]
            port = told["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
            )
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        if b"predictions" in answer.read():
                            return time.perf_counter() - began
                except OSError:
                    state = timed("docker", "inspect", "--format", "{{.State.Running}}", name)[1]
                    if state.strip() != "true":
                        logs = subprocess.run(
                            ["docker", "logs", name], capture_output=True, text=True, check=False
                        )
                        said = " ".join((logs.stdout + logs.stderr).split())
                        raise SystemExit(f"it ended: {said[-300:]}") from None
                if time.perf_counter() - began > 120:
                    logs = subprocess.run(
                        ["docker", "logs", name], capture_output=True, text=True, check=False
                    )
                    raise SystemExit(
                        f"no answer within 120 s: {(logs.stdout + logs.stderr)[-200:]}"
                    )
                time.sleep(0.02)
        finally:
            timed("docker", "rm", "--force", name)


FASTAPI = """
import pandas as pd
import skops.io
from fastapi import FastAPI
from pydantic import BaseModel

model = skops.io.load("/model/model.skops", trusted=skops.io.get_untrusted_types(file="/model/model.skops"))
app = FastAPI()

class Body(BaseModel):
    dataframe_split: dict

@app.post("/invocations")
def invocations(body: Body):
    frame = pd.DataFrame(**body.dataframe_split)
    return {"predictions": model.predict_proba(frame).tolist()}
"""
BENTO = """
import bentoml
import pandas as pd
import skops.io

@bentoml.service
class Late:
    def __init__(self) -> None:
        path = "/model/model.skops"
        self.model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

    @bentoml.api(route="/invocations")
    def invocations(self, dataframe_split: dict) -> dict:
        return {"predictions": self.model.predict_proba(pd.DataFrame(**dataframe_split)).tolist()}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--only", choices=["builds", "changes", "memory", "peers"])
    parser.add_argument("--large-mb", type=int, default=2000)
    asked = parser.parse_args()
    # Ended from outside it still prints what it has, and takes its registry and images away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="treadle-images-") as scratch:
        folder = Path(scratch)
        with registry.registry(folder / "registry") as address:
            bench = Bench(folder, address, asked.rounds)
            bench.prepare()
            same = bench.same_digest()
            steps: dict[str, Callable[[], None]] = {
                "builds": bench.builds,
                "changes": lambda: (bench.changes(1, 0.5), bench.changes(100, 2.0))[0],
                "memory": lambda: bench.memory(asked.large_mb),
                "peers": bench.peers,
            }
            if asked.without_peers:
                del steps["peers"]
            try:
                for name, step in steps.items():
                    if asked.only in (None, name):
                        step()
            finally:
                bench.report(same)
                bench.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
