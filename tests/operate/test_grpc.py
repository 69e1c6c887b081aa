"""gRPC on a real socket, in front of a real plane: calls, statuses, deadlines, drain, TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

pytest.importorskip("grpc", reason="pip install 'treadle[grpc]'")

import grpc
from grpc import aio
from tests.deploy import models

from treadle.base.errors import UsageError
from treadle.operate import counters
from treadle.operate import grpc as served
from treadle.operate.codec import proto
from treadle.operate.http.listener import Certificates
from treadle.operate.limits import Limits
from treadle.operate.metrics import Metrics
from treadle.operate.model import loaded as model
from treadle.operate.options import Options
from treadle.operate.plane import Identity, Plane
from treadle.operate.serving import Serving

OPTIONS = [("grpc.enable_retries", 0)]
ALONE = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
"""Its own pool of connections: else a channel shares those of the others to its address."""


class Asker:
    """A channel, and calls by the method's name."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __call__(self, method: str, request: Any = None, **more: Any) -> Any:
        kind = f"{method}Response" if not method.startswith("RepositoryModel") else None
        call = self._channel.unary_unary(
            f"/{proto.SERVICE}/{method}",
            response_deserializer=proto.message(kind).FromString if kind else None,
        )
        return call(b"" if request is None else request.SerializeToString(), **more)

    def infer(self, *rows: list[float], name: str = "demo", **more: Any) -> Any:
        """y = x for the rows (x, z)."""
        request = proto.message("ModelInferRequest")(model_name=name)
        for position, column in enumerate(("x", "z")):
            tensor = request.inputs.add(name=column, datatype="FP64", shape=[len(rows)])
            tensor.contents.fp64_contents.extend(row[position] for row in rows)
        return self("ModelInfer", request, **more)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.linear(tmp_path_factory.mktemp("grpc") / "model", 1, 0)


@pytest.fixture
def plane(folder: Path) -> Any:
    return plane_of(folder)


def plane_of(folder: Path, **limits: Any) -> Plane:
    made = Plane(model.load(folder), Identity(model="demo", release=7), limits=Limits(**limits))
    made.warm()
    return made


Session = Callable[[Asker, served.Server], Awaitable[None]]


def session(plane: Plane, work: Session, *, credentials: Any = None, **more: Any) -> None:
    """A server on a free port and a client of it, on the event loop that the server uses."""

    async def run() -> None:
        server = served.Server(plane, "127.0.0.1", 0, **more)
        await server.start()
        address = f"localhost:{server.port}"
        opened = (
            aio.insecure_channel(f"127.0.0.1:{server.port}", options=OPTIONS)
            if credentials is None
            else aio.secure_channel(address, credentials, options=OPTIONS)
        )
        try:
            async with opened as channel:
                await work(Asker(channel), server)
        finally:
            await server.drain(0.1)
            plane.close()

    uvloop.run(asyncio.wait_for(run(), 60))


async def status(call: Any) -> tuple[str, str, dict[str, Any]]:
    """How a call failed: its code, its words, its trailing metadata."""
    with pytest.raises(grpc.RpcError) as failed:
        await call
    error: Any = failed.value
    return error.code().name, error.details(), dict(error.trailing_metadata())


def test_health_and_metadata(plane: Plane) -> None:
    async def work(ask: Asker, _: served.Server) -> None:
        assert (await ask("ServerLive")).live and (await ask("ServerReady")).ready
        named = proto.message("ModelReadyRequest")(name="demo")
        assert (await ask("ModelReady", named)).ready
        named.version = "7"
        assert (await ask("ModelReady", named)).ready
        assert (await ask("ServerMetadata")).name == "treadle"
        about = await ask("ModelMetadata", named)
        assert (about.name, list(about.versions), about.platform) == ("demo", ["7"], "onnx_mlflow")
        assert [(i.name, i.datatype, list(i.shape)) for i in about.inputs] == [
            ("x", "FP64", [-1]), ("z", "FP64", [-1])
        ]  # fmt: skip
        index = await ask("RepositoryIndex")
        assert [(m.name, m.version, m.state) for m in index.models] == [("demo", "7", "READY")]
        plane.ready = False
        assert not (await ask("ServerReady")).ready and not (await ask("ModelReady", named)).ready
        only_ready = proto.message("RepositoryIndexRequest")(ready=True)
        assert not (await ask("RepositoryIndex", only_ready)).models
        code, words, _ = await status(ask.infer([1, 2]))
        assert (code, words) == ("UNAVAILABLE", "the model is not ready")

    session(plane, work)


def test_an_answer_says_who_gave_it(plane: Plane) -> None:
    counted: list[tuple[str, int]] = []

    async def work(ask: Asker, _: served.Server) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        call = ask.infer(
            [1.5, 2], [3, 4], metadata=(("x-request-id", "mine"), ("traceparent", trace))
        )
        answer = await call
        assert list(answer.outputs[0].contents.fp64_contents) == [1.5, 3.0]
        told = {k: v.string_param for k, v in answer.parameters.items()}
        assert told["prediction_id"].startswith("local.7.manual.") and told["model_version"] == "7"
        trailing = dict(await call.trailing_metadata())
        assert trailing == {
            "x-request-id": "mine", "traceparent": trace, "x-model-version": "7",
            "x-prediction-id": told["prediction_id"],
        }  # fmt: skip
        strange = ask.infer(
            [1, 2], metadata=(("x-request-id", "not well formed!"), ("traceparent", "x"))
        )
        await strange
        trailing = dict(await strange.trailing_metadata())
        assert len(trailing["x-request-id"]) == 26 and "traceparent" not in trailing

    session(plane, work, count=lambda route, code: counted.append((route, code)))
    assert counted == [("grpc", 200), ("grpc", 200)]


def test_errors_have_the_status_that_grpc_has_for_them(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[tuple[str, int]] = []

    async def work(ask: Asker, _: served.Server) -> None:
        code, words, trailing = await status(
            ask("ModelInfer", proto.message("ModelInferRequest")())
        )
        assert (code, words) == ("NOT_FOUND", "the only model here is demo, version 7")
        assert set(trailing) == {"x-request-id", "x-model-version"}
        empty = proto.message("ModelInferRequest")(model_name="demo")
        code, words, _ = await status(ask("ModelInfer", empty))
        assert (code, words) == (
            "INVALID_ARGUMENT",
            "inputs: expected one tensor or more, got none",
        )
        lacking = proto.message("ModelInferRequest")(model_name="demo")
        lacking.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
        code, words, _ = await status(ask("ModelInfer", lacking))
        assert code == "INVALID_ARGUMENT" and "z: expected" in words
        for what in ("Load", "Unload"):
            code, words, _ = await status(ask(f"RepositoryModel{what}"))
            assert code == "UNIMPLEMENTED" and "chosen when the server starts" in words
        garbage = ask._channel.unary_unary(f"/{proto.SERVICE}/ModelInfer")(b"\xff\xff\xff")
        code, words, _ = await status(garbage)
        assert (code, words) == (
            "INVALID_ARGUMENT",
            "message: expected a ModelInferRequest, got other bytes",
        )
        code, _, _ = await status(ask._channel.unary_unary(f"/{proto.SERVICE}/ModelConfig")(b""))
        assert code == "UNIMPLEMENTED"

        def broken(_: Any) -> Any:
            raise RuntimeError("s3cret /of/the/library")

        plane.model.answer = broken  # type: ignore[method-assign]
        code, words, trailing = await status(ask.infer([1, 2]))
        assert code == "INTERNAL" and words.startswith("the model failed; the log has request 0")
        assert words.endswith(trailing["x-request-id"])

    with caplog.at_level(logging.ERROR):
        session(plane, work, count=lambda route, code: counted.append((route, code)))
    assert "s3cret" in caplog.text
    assert [code for _, code in counted] == [404, 400, 400, 501, 501, 400, 500]


class Gate:
    """Holds the model's calls until it is opened."""

    def __init__(self, plane: Plane) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        answer = plane.model.answer

        def held(prepared: Any) -> Any:
            self.entered.set()
            assert self.open.wait(30)
            return answer(prepared)

        plane.model.answer = held  # type: ignore[method-assign]

    async def wait(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.entered.wait, 30)


def test_a_full_queue_says_when_to_come_again(folder: Path) -> None:
    plane = plane_of(folder, max_queue_requests=2, max_batch_rows=1)
    gate = Gate(plane)

    async def work(ask: Asker, _: served.Server) -> None:
        first = asyncio.ensure_future(_answered(ask.infer([1, 2])))
        await gate.wait()
        waiting = [asyncio.ensure_future(_answered(ask.infer([n, 0]))) for n in range(2)]
        await until(lambda: plane.batcher.waiting == 2)
        code, words, trailing = await status(ask.infer([9, 9]))
        assert (code, words) == ("RESOURCE_EXHAUSTED", "too many requests wait; try again")
        assert trailing["grpc-retry-pushback-ms"] == "1000"
        gate.open.set()
        answers = await asyncio.gather(first, *waiting)
        assert [answer.outputs[0].contents.fp64_contents[0] for answer in answers] == [1, 0, 1]

    session(plane, work)


async def until(what: Callable[[], bool]) -> None:
    while not what():  # noqa: ASYNC110 - what a server has come to, no event
        await asyncio.sleep(0.01)


async def _answered(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("client", [True, False])
def test_a_deadline_is_honoured_whoever_sets_it(folder: Path, client: bool) -> None:
    plane = plane_of(folder, deadline_s=60 if client else 0.2)
    gate = Gate(plane)

    async def work(ask: Asker, _: served.Server) -> None:
        code, words, _ = await status(ask.infer([1, 2], timeout=0.3 if client else None))
        assert code == "DEADLINE_EXCEEDED"
        if not client:
            assert words == "the answer was not there in time"
        gate.open.set()
        assert (await ask.infer([4, 2])).outputs[0].contents.fp64_contents[:] == [4]

    session(plane, work)


def test_who_leaves_is_dropped_from_the_queue(plane: Plane) -> None:
    gate = Gate(plane)
    asked: list[Any] = []
    submit = plane.submit

    def watched(*arguments: Any) -> Any:
        asked.append(submit(*arguments))
        return asked[-1]

    plane.submit = watched  # type: ignore[method-assign]

    async def work(ask: Asker, _: served.Server) -> None:
        staying = asyncio.ensure_future(_answered(ask.infer([1, 2])))
        await gate.wait()
        leaving = ask.infer([3, 4])
        await until(lambda: len(asked) == 2)
        leaving.cancel()
        await until(lambda: asked[1].gone)
        gate.open.set()
        assert (await staying).outputs[0].contents.fp64_contents[:] == [1]

    session(plane, work)


def test_a_message_beyond_the_limit_is_refused_also_when_it_was_compressed(folder: Path) -> None:
    plane = plane_of(folder, max_body_bytes=50_000)

    async def work(ask: Asker, _: served.Server) -> None:
        rows = [[1.0, 2.0]] * 10_000
        for compression in (None, grpc.Compression.Gzip):
            code, _, _ = await status(ask.infer(*rows, compression=compression))
            assert code == "RESOURCE_EXHAUSTED"
        assert len((await ask.infer(*rows[:1000])).outputs[0].contents.fp64_contents) == 1000

    session(plane, work)


def test_the_token_is_asked_of_all_but_a_probe(plane: Plane) -> None:
    async def work(ask: Asker, _: served.Server) -> None:
        assert (await ask("ServerLive")).live and (await ask("ServerReady")).ready
        for wrong in (
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", "Basic s3cret"),),
        ):
            code, words, _ = await status(ask.infer([1, 2], metadata=wrong))
            assert (code, words) == ("UNAUTHENTICATED", "send the bearer token in `authorization`")
            assert (await status(ask("ServerMetadata", metadata=wrong)))[0] == "UNAUTHENTICATED"
        for scheme in ("Bearer", "bearer"):
            right = (("authorization", f"{scheme} s3cret"),)
            assert (await ask.infer([1, 2], metadata=right)).outputs

    session(plane, work, token="s3cret")


def test_a_drain_finishes_what_is_in_flight_and_accepts_nothing_more(plane: Plane) -> None:
    gate = Gate(plane)

    async def work(ask: Asker, server: served.Server) -> None:
        staying = asyncio.ensure_future(_answered(ask.infer([5, 2])))
        await gate.wait()
        drained = asyncio.ensure_future(server.drain(30, others=True))
        async with aio.insecure_channel(f"127.0.0.1:{server.port}", options=ALONE) as soon:
            assert (await Asker(soon)("ServerLive")).live  # until others listen
        await asyncio.sleep(served.HANDOVER_S)
        async with aio.insecure_channel(f"127.0.0.1:{server.port}", options=ALONE) as late:
            assert (await status(Asker(late).infer([1, 2])))[0] == "UNAVAILABLE"
        await asyncio.sleep(served.LINGER_S)
        assert not drained.done()  # its client was told to go, but has a call
        gate.open.set()
        assert (await staying).outputs[0].contents.fp64_contents[:] == [5]
        await drained

    session(plane, work)


def test_connections_that_have_their_age_lose_no_call(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reopens its connection several times."""
    monkeypatch.setattr(served, "AGE_S", 0.4)

    async def work(_: Asker, server: served.Server) -> None:
        stop = asyncio.Event()

        async def caller(number: int) -> int:
            done = 0
            alone = [("grpc.use_local_subchannel_pool", 1)]
            async with aio.insecure_channel(f"127.0.0.1:{server.port}", options=alone) as channel:
                while not stop.is_set():
                    answer = await Asker(channel).infer([float(done), 0.0])
                    assert answer.outputs[0].contents.fp64_contents[:] == [done]
                    done += 1
                    await asyncio.sleep(0.003 * number)
            return done

        callers = [asyncio.ensure_future(caller(number)) for number in range(5)]
        await asyncio.sleep(2)
        stop.set()
        assert all(done > 20 for done in await asyncio.gather(*callers))

    session(plane, work)


def test_simultaneous_calls_get_their_own_answers(plane: Plane) -> None:
    async def work(ask: Asker, _: served.Server) -> None:
        sent = [[[float(n), 0.0]] * (1 + n % 4) for n in range(200)]
        answers = await asyncio.gather(*(_answered(ask.infer(*rows)) for rows in sent))
        for rows, answer in zip(sent, answers, strict=True):
            assert list(answer.outputs[0].contents.fp64_contents) == [row[0] for row in rows]

    session(plane, work)


def test_raw_contents_are_answered_raw(plane: Plane) -> None:
    async def work(ask: Asker, _: served.Server) -> None:
        request = proto.message("ModelInferRequest")(model_name="demo", id="mine")
        for name in ("x", "z"):
            request.inputs.add(name=name, datatype="FP64", shape=[2, 1])
            request.raw_input_contents.append(np.array([0.1, np.nan]).tobytes())
        answer = await ask("ModelInfer", request)
        assert answer.id == "mine"
        assert not answer.outputs[0].HasField("contents")
        got = np.frombuffer(answer.raw_output_contents[0], dtype=np.float64)
        np.testing.assert_array_equal(got, [0.1, np.nan])

    session(plane, work)


def test_servers_share_a_port_and_others_do_not(plane: Plane) -> None:
    async def work(_: Asker, server: served.Server) -> None:
        beside = served.Server(plane, "127.0.0.1", server.port)
        await beside.start()
        await beside.drain(1)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f":{port} for gRPC: Address already in use"):
                await served.Server(plane, "127.0.0.1", port).start()

    session(plane, work)


@pytest.mark.parametrize("lacking", ["grpc", "google.protobuf"])
def test_a_server_without_the_extra_says_what_to_install(folder: Path, lacking: str) -> None:
    code = (
        f"import sys; sys.modules[{lacking!r}] = None; from treadle.operate.__main__ import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(folder), "--port", "0", "--grpc-port", "8081"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode and "Traceback" not in done.stderr
    assert "--grpc-port needs grpcio" in done.stderr and "treadle[grpc]" in done.stderr


# ---- TLS -----------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own authority, for localhost."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    return chain, private


def test_tls_takes_a_new_certificate_when_its_files_change(plane: Plane, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path / "tls", "first")
    first = chain.read_bytes()

    async def work(ask: Asker, server: served.Server) -> None:
        assert (await ask("ServerLive")).live
        certificate(tmp_path / "tls", "second")
        later = chain.stat().st_mtime + 10
        for path in (chain, key):
            os.utime(path, (later, later))
        trusted = grpc.ssl_channel_credentials(chain.read_bytes())
        address = f"localhost:{server.port}"
        async with aio.secure_channel(address, trusted, options=ALONE) as channel:
            assert (await Asker(channel)("ServerLive")).live

    tls = Certificates(str(chain), str(key), protocols=("h2",))
    session(plane, work, tls=tls, credentials=grpc.ssl_channel_credentials(first))


def test_a_worker_tells_grpc_of_all_workers_and_not_of_itself_alone(sklearn_folder: Path) -> None:
    metrics = Metrics()
    serving = Serving(Options(model=sklearn_folder, grpc_port=0), metrics)
    try:
        assert serving._grpc is not None and not serving._grpc._ready
        metrics.shared.header[counters.READY] = 1
        assert serving._grpc._ready
    finally:
        serving._service.close()
