"""The Open Inference protocol over gRPC, in front of the plane, on a port of its own (`--grpc-port`).

grpc.aio on the server's own event loop: a request is decoded, submitted and answered on the thread
that the plane belongs to; no pool of threads stands between, so the plane's queue is the only one.
Every worker binds the same port (SO_REUSEPORT), and the kernel gives each connection to one of them.
Connections come through `grpc_front`, which can tell clients to go elsewhere.

The prediction's id and the model's version are in the answer's parameters and in the trailing
metadata. Errors have the status that gRPC has for them and a sentence that holds nothing of the
input; a failure's cause is in the log under the request's id.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from treadle import __version__
from treadle.base import clock
from treadle.base.errors import MissingExtra, UsageError
from treadle.operate.batch import Overloaded, TooLate
from treadle.operate.codec import v2
from treadle.operate.grpc_front import Front
from treadle.operate.http.listener import Certificates, Listener
from treadle.operate.model.signature import WrongInput
from treadle.operate.plane import ModelFailed, Plane
from treadle.operate.query import Answer, Query

if TYPE_CHECKING:
    from treadle.operate.options import Options

try:
    import grpc
    from grpc import aio

    from treadle.operate.codec import proto
except ImportError:
    raise MissingExtra("grpcio", "grpc", "--grpc-port") from None

_log = logging.getLogger("treadle.grpc")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_OPEN = {"ServerLive", "ServerReady"}
"""Methods that a probe may call without the token."""
_RETRY = ("grpc-retry-pushback-ms", "1000")
"""When a client that was turned away may try again (gRPC proposal A6): its own retries read it."""
AGE_S = 60.0
"""How long a connection lasts, ± 10 %: its client is told (GOAWAY), finishes its calls and opens
another. So clients find workers and pods that came later."""
HANDOVER_S = 2.0
"""How long a drain after a swap goes on accepting. Each worker listens for itself, and those of a new version
begin when the old ones have stopped accepting HTTP: nobody may find the port closed between."""
LINGER_S = 2.0
"""How long a drain waits for clients to have gone that were told to; then only calls are awaited."""
_LOOK_S = 0.02
"""How often a drain looks whether connections are left."""
_STREAMS = 2048
"""Calls of one connection at a time; more wait at the client, unseen by our queue."""
_Code = grpc.StatusCode
_HTTP = {
    _Code.INVALID_ARGUMENT: 400, _Code.UNAUTHENTICATED: 401, _Code.NOT_FOUND: 404,
    _Code.INTERNAL: 500, _Code.UNIMPLEMENTED: 501, _Code.RESOURCE_EXHAUSTED: 503,
    _Code.UNAVAILABLE: 503, _Code.DEADLINE_EXCEEDED: 504,
}  # fmt: skip
"""HTTP's number for a status: what the metrics count."""


class _Refused(Exception):
    """A status, its words, and metadata for the client."""

    def __init__(self, code: grpc.StatusCode, message: str, *more: tuple[str, str]) -> None:
        super().__init__(message)
        self.code, self.message, self.more = code, message, more


@dataclass
class _Call:
    """One call: gRPC's context, and the trailing metadata of its answer."""

    context: Any
    id: str
    trailing: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, name: str, value: str) -> None:
        if value.isascii() and value.isprintable():  # else it is no metadata that gRPC would send
            self.trailing.append((name, value))


_Work = Callable[[bytes, _Call], Awaitable[Any]]


class Server:
    """The gRPC server of one worker. Belongs to the event loop that `start` runs on."""

    def __init__(
        self,
        plane: Plane,
        host: str,
        port: int,
        *,
        token: str | None = None,
        tls: Certificates | None = None,
        count: Callable[[str, int], None] = lambda *_: None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`count` hears of every answered call: the route `grpc` and HTTP's number for its status.

        `ready` says whether the other workers are, where there are some.
        """
        self._plane, self._limits = plane, plane.limits
        self._host, self.port = host, port
        self._token = None if token is None else token.encode()
        self._tls, self._count, self._others = tls, count, ready
        self._name, self._version = plane.identity.model, str(plane.identity.release)
        self._codec = proto.Inference(
            plane.model.signature, plane.limits, model=self._name, version=self._version
        )
        self._server: Any = None
        self._front: Front | None = None
        self._listener: Listener | None = None

    async def start(self) -> None:
        """Listen and answer. `port` 0 has become a number then. UsageError where it cannot."""
        bound = reserve(self._host, self.port)
        try:
            self.port = bound.getsockname()[1]
            front = self._front = Front()
            self._server = aio.server(options=[
                ("grpc.max_receive_message_length", self._limits.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", self._limits.max_head_bytes),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.max_connection_age_ms", int(AGE_S * 1000)),
                ("grpc.server_handshake_timeout_ms", int(self._limits.head_timeout_s * 1000)),
            ])  # fmt: skip
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(self._handler(name, work))
                for name, work in self._methods().items()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(proto.SERVICE, handlers),)
            )
            self._server.add_insecure_port(front.address)
            await self._server.start()
            self._listener = Listener(
                bound, front, count=front.count, limits=self._limits, tls=self._tls
            )
            self._listener.open()
        except BaseException:
            bound.close()
            raise

    async def drain(self, grace_s: float, *, others: bool = False) -> None:
        """Hand over, accept no more, tell clients to go elsewhere, finish their calls, close.

        `others`: workers of a new version are about to listen.
        gRPC's own shutdown cancels calls that were on their way when it began (C-core answers them
        CANCELLED, which nobody repeats), so it comes last, when every client has gone or has had
        LINGER_S to hear of it; then what is in flight has the rest of `grace_s`.
        """
        front, listener = self._front, self._listener
        if front is None or listener is None:
            return
        until = clock.elapsed() + grace_s
        await asyncio.sleep(min(grace_s, HANDOVER_S) if others else 0)
        listener.close()
        front.leave()

        async def gone(until: float) -> None:
            while front.count() + listener.greeting and clock.elapsed() < until:  # noqa: ASYNC110 - many conditions, no event
                await asyncio.sleep(_LOOK_S)

        await gone(min(until, clock.elapsed() + LINGER_S))
        await self._server.stop(max(0.0, until - clock.elapsed()))
        await gone(max(until, clock.elapsed() + _LOOK_S))  # its last words are on their way
        front.close()

    # ---- calls ----

    def _methods(self) -> dict[str, _Work]:
        return {
            "ServerLive": self._server_live, "ServerReady": self._server_ready,
            "ModelReady": self._model_ready, "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata, "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index, "RepositoryModelLoad": _fixed,
            "RepositoryModelUnload": _fixed,
        }  # fmt: skip

    def _handler(self, name: str, work: _Work) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """A method as gRPC calls it: bytes to bytes, every error with its status."""

        async def handle(body: bytes, context: Any) -> bytes:
            told = {key: value for key, value in context.invocation_metadata() or ()}  # noqa: C416 - last one wins
            call = _Call(context, self._request_id(told))
            call.tell("x-request-id", call.id)
            call.tell("x-model-version", self._version)
            if _TRACE.fullmatch(str(told.get("traceparent", ""))):
                call.tell("traceparent", str(told["traceparent"]))
            try:
                if name not in _OPEN:
                    self._authorize(told.get("authorization"))
                response = await work(body, call)
                encoded: bytes = response.SerializeToString()
            except _Refused as refused:
                await self._abort(call, refused)
            except WrongInput as wrong:
                await self._abort(call, _Refused(_Code.INVALID_ARGUMENT, wrong.message))
            except Overloaded as full:
                await self._abort(call, _Refused(_Code.RESOURCE_EXHAUSTED, full.message, _RETRY))
            except TooLate as late:
                await self._abort(call, _Refused(_Code.DEADLINE_EXCEEDED, late.message))
            except Exception as error:
                cause = error.__cause__ if isinstance(error, ModelFailed) else error
                _log.error("request %s: %s failed", call.id, name, exc_info=cause)
                who = "model" if isinstance(error, ModelFailed) else "server"
                words = f"the {who} failed; the log has request {call.id}"
                await self._abort(call, _Refused(_Code.INTERNAL, words))
            self._count("grpc", 200)
            context.set_trailing_metadata(tuple(call.trailing))
            return encoded

        return handle

    async def _abort(self, call: _Call, refused: _Refused) -> NoReturn:
        self._count("grpc", _HTTP[refused.code])
        trailing = (*call.trailing, *refused.more)
        await call.context.abort(refused.code, refused.message, trailing)
        raise AssertionError  # abort raises

    def _request_id(self, told: Mapping[str, Any]) -> str:
        given = str(told.get("x-request-id", ""))
        return given if _REQUEST_ID.fullmatch(given) else clock.ulid()

    def _authorize(self, given: Any) -> None:
        if self._token is None:
            return
        scheme, _, token = given.partition(" ") if isinstance(given, str) else ("", "", "")
        # Compared first, so that a wrong scheme takes as long as a wrong token.
        same = hmac.compare_digest(token.strip().encode(), self._token)
        if not same or scheme.lower() != "bearer":
            raise _Refused(_Code.UNAUTHENTICATED, "send the bearer token in `authorization`")

    def _known(self, name: str, version: str) -> None:
        if name != self._name or version not in ("", self._version):
            raise _Refused(
                _Code.NOT_FOUND,
                f"the only model here is {self._name}, version {self._version}",
            )

    @property
    def _ready(self) -> bool:
        return self._plane.ready and self._others()

    async def _server_live(self, _body: bytes, _call: _Call) -> Any:
        return proto.message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _body: bytes, _call: _Call) -> Any:
        return proto.message("ServerReadyResponse")(ready=self._ready)

    async def _model_ready(self, body: bytes, _call: _Call) -> Any:
        request = proto.parsed("ModelReadyRequest", body)
        self._known(request.name, request.version)
        return proto.message("ModelReadyResponse")(ready=self._ready)

    async def _server_metadata(self, _body: bytes, _call: _Call) -> Any:
        return proto.message("ServerMetadataResponse")(**v2.server(__version__))

    async def _model_metadata(self, body: bytes, _call: _Call) -> Any:
        request = proto.parsed("ModelMetadataRequest", body)
        self._known(request.name, request.version)
        return proto.message("ModelMetadataResponse")(**self._plane.metadata())

    async def _repository_index(self, body: bytes, _call: _Call) -> Any:
        request = proto.parsed("RepositoryIndexRequest", body)
        response = proto.message("RepositoryIndexResponse")()
        ready = self._ready
        if ready or not request.ready:
            state = "READY" if ready else "UNAVAILABLE"
            response.models.add(name=self._name, version=self._version, state=state)
        return response

    async def _model_infer(self, body: bytes, call: _Call) -> Any:
        request = proto.parsed("ModelInferRequest", body)
        self._known(request.model_name, request.model_version)
        if not self._plane.ready:
            raise _Refused(_Code.UNAVAILABLE, "the model is not ready")
        decoded = self._codec.decode(request)
        self._codec.check(decoded, self._plane.examples)
        limits = (self._limits.deadline_s, decoded.deadline_s, call.context.time_remaining())
        answer = await self._answered(decoded.query, min(s for s in limits if s is not None))
        call.tell("x-prediction-id", answer.id)
        return self._codec.encode(answer, decoded)

    async def _answered(self, query: Query, limit_s: float) -> Answer:
        """Wait for the plane; a client that left is dropped from its queue."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(result: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        ticket = self._plane.submit(query, done, limit_s)
        try:
            return await future
        except asyncio.CancelledError:
            if ticket is not None:
                ticket.cancel()
            raise


async def _fixed(_body: bytes, _call: _Call) -> Any:
    words = "the model is chosen when the server starts: none is loaded or unloaded by a request"
    raise _Refused(_Code.UNIMPLEMENTED, words)


def reserve(host: str, port: int) -> socket.socket:
    """A socket bound to the port beside others of its kind (SO_REUSEPORT), not listening.

    gRPC only says that it could not bind; this says why, and makes a number of port 0.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UsageError(
            f"cannot listen on {host}:{port} for gRPC: {error.strerror}",
            hint="choose another --grpc-port",
        ) from None
    return bound


def of(
    options: Options,
    plane: Plane,
    count: Callable[[str, int], None],
    ready: Callable[[], bool] = lambda: True,
) -> Server:
    """The server that the options of `serve` ask for, with `grpc_port` among them."""
    assert options.grpc_port is not None
    tls = None
    if options.tls_certificate is not None:
        key = None if options.tls_key is None else str(options.tls_key)
        tls = Certificates(str(options.tls_certificate), key, protocols=("h2",))
    return Server(plane, options.host, options.grpc_port, token=options.token, tls=tls,
                  count=count, ready=ready)  # fmt: skip
