"""The servers that are compared: how each is started, asked and read.

Each in the faster of its usual settings that were tried (see `setting`), one worker, access log off
where it has one, threads of numerical libraries 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .measure import Failed

PEERS = Path(__file__).parent / "peers"
TOKEN = "benchmark-" + "0" * 22
"""What the row with a bearer token sends."""
NGINX = """\
%(user)s
daemon off;
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log stderr crit;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %(folder)s/body;
  proxy_temp_path %(folder)s/proxy;
  fastcgi_temp_path %(folder)s/fastcgi;
  uwsgi_temp_path %(folder)s/uwsgi;
  scgi_temp_path %(folder)s/scgi;
  server {
    listen 127.0.0.1:%(port)d;
    location / { default_type application/json; return 200 '%(body)s'; }
  }
}
"""


@dataclass(frozen=True)
class Place:
    """Where a server is started: what it may need to know."""

    case: Mapping[str, Any]
    """case.json."""
    folder: Path
    """Its own, empty."""
    port: int
    venvs: Path
    tools: Mapping[str, Sequence[str]]
    """`wrk` and `nginx`: command lines."""
    directory: Path | None = None
    """The model directory that it serves."""

    def python(self, venv: str) -> Path:
        """The interpreter of a peer. Failed where it is not installed."""
        path = self.venvs / venv / "bin" / "python"
        if not path.exists():
            raise Failed("not installed: serving.py --install")
        return path


@dataclass(frozen=True)
class Peer:
    """One server of the table."""

    name: str
    title: str
    form: str
    """How rows are sent: see `body`."""
    path: str
    command: Callable[[Place], Sequence[str | Path]]
    cases: tuple[str, ...]
    setting: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Callable[[Place], Mapping[str, str]] = lambda _: {}
    cells: tuple[str, ...] = ("64", "1", "100")
    ours: bool = False
    venv: str | None = None
    directory: str | None = None
    """Which of the case's model directories it serves; `compiled`: made when it is asked for."""
    answer_key: str | None = "predictions"
    constant: bool = False
    """Answers everything with the right answer to the first question: a ceiling."""
    stopped: bool = True
    """Whether it is stopped while others are measured."""
    skip: Callable[[], str | None] = lambda: None
    """Why it cannot be measured today, in words."""


def body(form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A request for some rows, as compact JSON."""
    document: dict[str, Any]
    if form == "tensor":
        document = {"inputs": rows}
    elif form == "frame":
        document = {"dataframe_split": {"columns": columns, "data": rows}}
    elif form == "rows":
        document = {"rows": rows}
    elif form == "v1":
        document = {"instances": rows}
    elif form == "v2":
        tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64",
                  "data": rows}  # fmt: skip
        document = {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}
    else:
        raise ValueError(form)
    return json.dumps(document, separators=(",", ":")).encode()


# ---- ours ----------------------------------------------------------------------------------------


@cache
def _help() -> str:
    """What `serve --help` says: options that are not there yet are skipped with words."""
    return subprocess.run(
        [sys.executable, "-m", "treadle.operate", "serve", "--help"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip


def _without(option: str) -> Callable[[], str | None]:
    return lambda: None if option in _help() else f"`serve` has no {option} yet"


def ours(place: Place, *more: str, transport: str = "own") -> list[str | Path]:
    """Our command with capture on; metrics and prediction ids are never off."""
    assert place.directory is not None
    http = ["--http", transport] if "--http" in _help() else []
    return [
        sys.executable, "-m", "treadle.operate", "serve", place.directory,
        "--port", str(place.port), "--capture", place.folder / "capture", *http, *more,
    ]  # fmt: skip


def _with_token(place: Place) -> list[str | Path]:
    file = place.folder / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return ours(place, "--token-file", str(file))


# ---- others --------------------------------------------------------------------------------------


def _constant(place: Place) -> str:
    """A reply as long as ours to the first question."""
    return json.dumps({"predictions": place.case["expected"][:1]}, separators=(",", ":"))


def _nginx(place: Place) -> list[str | Path]:
    configuration = place.folder / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    configuration.write_text(
        NGINX % {"user": user, "folder": place.folder, "port": place.port, "body": _constant(place)}
    )
    return [*place.tools["nginx"], "-p", place.folder, "-c", configuration]


def _same(program: str) -> Callable[[Place], list[str | Path]]:
    """One of ours that answers everything with the same bytes."""

    def command(place: Place) -> list[str | Path]:
        file = place.folder / "answer.json"
        file.write_text(_constant(place))
        return [place.python("fastapi"), PEERS / program, file, str(place.port)]

    return command


def _mlflow(place: Place) -> list[str | Path]:
    assert place.directory is not None
    return [
        place.python("mlflow").parent / "mlflow", "models", "serve", "--model-uri", place.directory,
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(place.port), "--workers", "1",
    ]  # fmt: skip


def _program(venv: str, file: str) -> Callable[[Place], list[str | Path]]:
    return lambda place: [
        place.python(venv), PEERS / file, place.case["native"], str(place.port),
    ]  # fmt: skip


def _bento(place: Place) -> list[str | Path]:
    return [
        place.python("bentoml").parent / "bentoml", "serve", "bento:Probability",
        "--working-dir", PEERS, "--host", "127.0.0.1", "--port", str(place.port),
    ]  # fmt: skip


def _mlserver(place: Place) -> list[str | Path]:
    from . import measure

    settings = {
        "host": "127.0.0.1", "http_port": place.port, "grpc_port": measure.free_port(),
        "metrics_port": measure.free_port(), "parallel_workers": 0, "debug": False,
        "use_structured_logging": False, "load_models_at_startup": True,
    }  # fmt: skip
    model = {
        "name": "model",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": place.case["native"]},
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [place.python("mlserver").parent / "mlserver", "start", place.folder]


_NUMBERS = ("logreg", "lightgbm", "hgb", "onnx")
_ALL = (*_NUMBERS, "flights")

SERVERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("nginx", "nginx, constant reply", "tensor", "/", _nginx, _ALL, cells=("64", "1"),
             constant=True),
        Peer(
            "bare", "uvloop + httptools, constant reply", "tensor", "/", _same("bare.py"),
            ("logreg",), cells=("64", "1"), venv="fastapi", constant=True,
        ),
        Peer(
            "uvicorn", "uvicorn, constant reply", "tensor", "/", _same("constant.py"),
            ("logreg",), "httptools, uvloop", cells=("64",), venv="fastapi", constant=True,
        ),
        Peer(
            "treadle", "**treadle**", "tensor", "/invocations", ours, _NUMBERS,
            "tensor signature; capture, metrics, prediction ids", ours=True, directory="tensor",
        ),
        Peer(
            "treadle-frame", "**treadle**, named columns", "frame", "/invocations", ours,
            ("logreg", "flights"), "DataFrame signature; capture, metrics, prediction ids",
            ours=True, directory="frame",
        ),
        Peer(
            "treadle-token", "**treadle**, bearer token", "tensor", "/invocations", _with_token,
            ("logreg",), "as treadle, and a token", {"Authorization": f"Bearer {TOKEN}"},
            cells=("64",), ours=True, directory="tensor", skip=_without("--token-file"),
        ),
        Peer(
            "treadle-uvicorn", "**treadle** under uvicorn", "tensor", "/invocations",
            lambda place: ours(place, transport="uvicorn"), ("logreg",), "--http uvicorn",
            cells=("64", "1"), ours=True, directory="tensor", skip=_without("--http"),
        ),
        Peer(
            "treadle-compiled", "**treadle**, compiled", "frame", "/invocations", ours,
            ("logreg", "lightgbm", "hgb"), "`compile: auto`, DataFrame signature", ours=True,
            directory="compiled",
        ),
        Peer(
            "mlflow-frame", "mlflow models serve, DataFrame", "frame", "/invocations", _mlflow,
            ("logreg", "flights"), "DataFrame signature, the same directory as ours",
            cells=("64", "100"), venv="mlflow", directory="frame",
        ),
        Peer(
            "mlflow", "mlflow models serve, tensors", "tensor", "/invocations", _mlflow, _NUMBERS,
            "tensor signature, the same directory as ours", cells=("64", "100"), venv="mlflow",
            directory="tensor",
        ),
        Peer(
            "fastapi", "FastAPI by hand", "rows", "/predict", _program("fastapi", "by_hand.py"),
            ("logreg",), "`def` endpoint, pydantic, httptools, uvloop", cells=("64", "100"),
            venv="fastapi",
        ),
        Peer(
            "mlserver", "MLServer", "v2", "/v2/models/model/infer", _mlserver, ("logreg",),
            "parallel_workers 0; uvloop held at 0.21.0", cells=("64", "100"), venv="mlserver",
            answer_key="outputs",
        ),
        Peer(
            "bentoml", "BentoML", "rows", "/predict", _bento, ("logreg",),
            "adaptive batching; never stopped, its batching learns from latencies (it idles at 1 %)",
            cells=("64", "100"), venv="bentoml", answer_key=None, stopped=False,
            environment=lambda place: {
                "BENCH_MODEL": place.case["native"], "BENTOML_HOME": str(place.folder),
            },
        ),
        Peer(
            "litserve", "LitServe", "rows", "/predict", _program("litserve", "lit.py"), ("logreg",),
            "no batching (its default)", cells=("64", "100"), venv="litserve",
        ),
        Peer(
            "kserve", "KServe's Python server", "v1", "/v1/models/model:predict",
            _program("kserve", "kserve_model.py"), ("logreg",), "V1", cells=("64", "100"),
            venv="kserve",
        ),
    )
}  # fmt: skip


def environment(peer: Peer, place: Place) -> dict[str, str]:
    """What a server finds: nothing of this session's Python, one numerical thread."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MLFLOW_", "TREADLE_", "OMP_", "BENTOML_", "MLSERVER_"))
    }
    first = place.venvs / peer.venv / "bin" if peer.venv else Path(sys.executable).parent
    return {
        **kept,
        "PATH": f"{first}:{kept.get('PATH', '')}",
        "HOME": str(place.folder),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONWARNINGS": "ignore",  # KServe's FastAPI would print one for each answer
        **peer.environment(place),
    }
