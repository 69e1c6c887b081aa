"""TLS and a bearer token, as real clients are told of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.real_clients.conftest import HAS_GRPC, Client, Served, start
from tests.real_clients.exchange import packed

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def authority(tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that is its own authority, its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "chain.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "chain.pem"


@pytest.fixture(scope="module")
def secured(
    authority: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    home = tmp_path_factory.mktemp("secured")
    (home / "token").write_text(f"{TOKEN}\n")
    served = start(
        folders["linear"], home, "--tls-certificate", str(authority),
        "--tls-key", str(authority.with_name("key.pem")), "--token-file", str(home / "token"),
        grpc=HAS_GRPC,
    )  # fmt: skip
    yield served
    assert served.stop() == 0
    assert TOKEN not in served.log.read_text()


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_tritonclient_asks_with_tls_and_a_token(
    client: Client, secured: Served, authority: Path, over: str
) -> None:
    port = secured.port if over == "http" else secured.grpc_port
    inputs = {"x": packed(np.ones((1, 3), dtype=np.float32))}
    right = {"authorization": f"Bearer {TOKEN}"}
    wrong = {"authorization": "Bearer another"}
    asked, none, other = client(
        "triton", over=over, port=port, authority=str(authority),
        steps=[
            {"do": "infer", "inputs": inputs, "headers": right},
            {"do": "refused", "what": "infer", "inputs": inputs},
            {"do": "refused", "what": "infer", "inputs": inputs, "headers": wrong},
        ],
    )  # fmt: skip
    assert asked["order"] == ["total", "double"]
    wanted = "401" if over == "http" else "StatusCode.UNAUTHENTICATED"
    assert none["status"] == other["status"] == wanted
    assert "bearer token" in none["message"]


def test_curl_trusts_the_certificate_and_sends_the_token(
    tool: Callable[..., str], secured: Served, authority: Path
) -> None:
    def curl(*more: str) -> str:
        url = f"https://localhost:{secured.port}"
        asked = [tool("curl"), "-s", "--cacert", str(authority), "-w", "%{http_code}"]
        done = subprocess.run(
            [*asked, *(part.replace("URL", url) for part in more)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    bearer = ("--oauth2-bearer", TOKEN)
    assert curl("URL/ping").endswith("200")  # a probe knows no token
    assert curl("URL/v2/models/demo").endswith("401")
    assert '"name":"demo"' in curl(*bearer, "URL/v2/models/demo")
    body = ("--json", '{"inputs": [[1, 2, 3]]}')
    assert curl(*bearer, *body, "URL/invocations").endswith("200")
    assert curl(*body, "URL/invocations").endswith("401")
