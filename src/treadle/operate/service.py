"""What is at which path: the protocols in front of the plane, errors in each one's own words.

MLflow scoring, Open Inference V2, KServe V1, Prometheus, OpenAPI and the human page on one port.
It knows heads, bodies and replies (`request`), no socket. Nothing of an input, no path and no stack
trace is ever in a reply; a failure's cause is in the log under the request's id.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from treadle import __version__
from treadle.base import clock
from treadle.operate.batch import Overloaded, TooLate
from treadle.operate.codec import json, mlflow, openapi, page, v1, v2
from treadle.operate.metrics import KIND as METRICS
from treadle.operate.metrics import Metrics
from treadle.operate.model.loaded import input_example
from treadle.operate.model.signature import WrongInput
from treadle.operate.plane import ModelFailed, Plane
from treadle.operate.query import Answer, Query
from treadle.operate.request import Handler, Head, Reply, Respond, Ticket, traceparent
from treadle.operate.turn import Turn

_log = logging.getLogger("treadle.server")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_JSON, _TEXT, _HTML = b"application/json", b"text/plain; charset=utf-8", b"text/html; charset=utf-8"
_BINARY = b"application/octet-stream"
_V1 = "/v1/models/{model}:predict"
LARGE_BYTES = 256 << 10
"""A larger body is decoded on a thread of its own."""
LARGE_ROWS = 10_000
"""An answer of more rows is encoded there too."""
TIMED = 16
"""Of so many requests, one is timed for the metrics of decoding and encoding."""
OPEN = frozenset({"/ping", "/health", "/v2/health/live", "/v2/health/ready"})
"""What a probe may ask without the token."""
_CODES = {400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 404: "RESOURCE_DOES_NOT_EXIST",
          500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip

Encode = Callable[[Answer], tuple[bytes, bytes, bytes]]
"""An answer → body, content type, further header lines."""
Decode = Callable[[], tuple[Query, Encode, float | None]]
"""→ the query, how its answer is written, and the client's own deadline in seconds, if any."""
Look = Callable[[Head], Reply]


class Predictor:
    """The service of one plane: implements `request.Service`."""

    def __init__(self, plane: Plane, metrics: Metrics, *, token: str | None = None) -> None:
        self.plane, self.metrics = plane, metrics
        self.draining = False
        self._token = token.encode() if token else None
        who, limits = plane.identity, plane.limits
        signature, version = plane.model.signature, str(who.release)
        self._scoring = mlflow.Scoring(signature, limits)
        self._inference = v2.Inference(signature, limits, model=who.model, version=version)
        self._predict = v1.Predict(signature, limits)
        self._always = b"x-model-version: %b\r\n" % version.encode()
        if who.content:
            self._always += b"x-model-digest: %b\r\n" % who.content.encode()
        if who.image:
            self._always += b"x-image-digest: %b\r\n" % who.image.encode()
        self._scorings = Turn(
            plane, metrics, self._scoring, "/invocations", alone=self._score, kind=_JSON,
            submit=lambda head, query, respond: self._submit(
                "/invocations", head, query, self._scored, None, respond
            ),
            headers=self._headers, error=self.error,
        )  # fmt: skip
        self._predictions = Turn(
            plane, metrics, self._predict, _V1, alone=self._v1_alone, kind=_JSON,
            submit=lambda head, query, respond: self._submit(
                _V1, head, query, self._v1_encoded, None, respond
            ),
            headers=self._headers, error=self.error,
        )  # fmt: skip
        self._count = 0
        self._codecs: ThreadPoolExecutor | None = None
        self._openapi: bytes | None = None
        v2_model, v1_model = f"/v2/models/{who.model}", f"/v1/models/{who.model}"
        v2_version = f"{v2_model}/versions/{version}"
        name = "/v2/models/{model}"
        self._posts: dict[str, tuple[str, Handler]] = {
            "/invocations": ("/invocations", self._invocations),
            f"{v2_model}/infer": (f"{name}/infer", self._infer),
            f"{v2_version}/infer": (f"{name}/infer", self._infer),
            "/v2/repository/index": ("/v2/repository/index", self._index),
            f"{v1_model}:predict": (_V1, self._v1),
        }
        self._gets: dict[str, tuple[str, Look]] = {
            "/": ("/", self._root),
            "/ping": ("/ping", self._ping),
            "/health": ("/health", self._ping),
            "/version": ("/version", self._version),
            "/metrics": ("/metrics", self._metrics),
            "/openapi.json": ("/openapi.json", self._document),
            "/v2": ("/v2", lambda _: self._plain(v2.server(__version__))),
            "/v2/health/live": ("/v2/health/live", lambda _: self._plain({"live": True})),
            "/v2/health/ready": ("/v2/health/ready", self._ready),
            "/v2/models": ("/v2/models", lambda _: self._plain({"models": [who.model]})),
            "/v1/models": ("/v1/models", lambda _: self._plain({"models": [who.model]})),
            v1_model: ("/v1/models/{model}", self._model_ready),
        }
        for path in (v2_model, v2_version):
            self._gets[path] = (name, lambda _: self._plain(plane.metadata()))
            self._gets[f"{path}/ready"] = (f"{name}/ready", self._model_ready)

    # ---- what a transport asks ----

    def refusal(self, head: Head, length: int | None) -> Reply | None:
        """What is refused before its body is read: 401, 404, 405, 413."""
        path = head.path
        if self._token is not None and path not in OPEN and not self._known(head):
            return self._refused(head, 401, "a bearer token is needed",
                                 b"www-authenticate: Bearer\r\n")  # fmt: skip
        if head.method == "POST":
            if path not in self._posts:
                return self._lost(head)
            if length is not None and length > self.plane.limits.max_body_bytes:
                most = self.plane.limits.max_body_bytes
                return self._refused(head, 413, f"the body is larger than {most} bytes")
            return None
        if head.method not in ("GET", "HEAD") or path not in self._gets:
            return self._lost(head)
        return None

    def answer(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        """Answer a request that was not refused."""
        if head.method == "POST":
            return self._posts[head.path][1](head, body, respond)
        route, look = self._gets[head.path]
        reply = look(head)
        self.metrics.request(route, reply.status)
        respond(reply._replace(headers=reply.headers + self._identify(head, None)))
        return None

    def handler(self, head: Head) -> Handler | None:
        """What answers all requests with this very head: a refusal is a matter of the head alone."""
        return self._posts[head.path][1] if head.method == "POST" else None

    def error(self, status: int, message: str, head: Head | None = None) -> Reply:
        """An error in the words of the protocol that the path belongs to."""
        path = head.path if head is not None else ""
        if path == "/invocations":
            body = mlflow.encode_error(_CODES.get(status, "BAD_REQUEST"), message)
        else:
            body = v2.encode_error(message)
        more = self._always
        if head is not None:
            more += self._identify(head, None)
        if status in (429, 503):
            more += b"retry-after: 1\r\n"
        route = self._posts.get(path) or self._gets.get(path)
        self.metrics.request(route[0] if route else "other", status)
        return Reply(status, body, _JSON, more)

    def close(self) -> None:
        """End the threads and write what was captured."""
        if self._codecs is not None:
            self._codecs.shutdown(wait=False, cancel_futures=True)
        self.plane.close()

    # ---- predicting ----

    def _invocations(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        if head.headers.get(b"content-type") == _JSON and len(body) <= LARGE_BYTES:
            return self._scorings.add(head, body, respond)
        return self._score(head, body, respond)

    def _score(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        """One request by itself."""
        kind = head.headers.get(b"content-type")

        def decode() -> tuple[Query, Encode, None]:
            text = kind.decode("latin-1") if kind is not None else None
            return self._scoring.decode(body, text), self._scored, None

        return self._ask("/invocations", head, body, decode, respond)

    def _scored(self, answer: Answer) -> tuple[bytes, bytes, bytes]:
        return self._scoring.encode(answer), _JSON, b""

    def _infer(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        def decode() -> tuple[Query, Encode, float | None]:
            length = head.headers.get(b"inference-header-content-length")
            if length is not None and not (length.isdigit() and len(length) < 12):
                raise WrongInput("Inference-Header-Content-Length", "a number", "something else")
            header = int(length) if length is not None else None
            kind = head.headers.get(b"content-type", b"")
            if header == 0 and kind.lower().startswith(_JSON):
                raise WrongInput("Inference-Header-Content-Length", "the length of the JSON that the "
                                 "Content-Type announces", "0")  # fmt: skip
            request = self._inference.decode(body, header)
            self._inference.check(request, self.plane.examples)

            def encode(answer: Answer) -> tuple[bytes, bytes, bytes]:
                encoded, header = self._inference.encode(answer, request)
                if header is None:
                    return encoded, _JSON, b""
                return encoded, _BINARY, b"inference-header-content-length: %d\r\n" % header

            return request.query, encode, request.deadline_s

        return self._ask("/v2/models/{model}/infer", head, body, decode, respond)

    def _v1(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        if len(body) <= LARGE_BYTES:
            return self._predictions.add(head, body, respond)
        return self._v1_alone(head, body, respond)

    def _v1_alone(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        return self._ask(
            _V1, head, body, lambda: (self._predict.decode(body), self._v1_encoded, None), respond
        )

    def _v1_encoded(self, answer: Answer) -> tuple[bytes, bytes, bytes]:
        return self._predict.encode(answer), _JSON, b""

    def _ask(
        self, route: str, head: Head, body: bytes, decode: Decode, respond: Respond
    ) -> Ticket | None:
        if len(body) > LARGE_BYTES:
            return self._ask_apart(route, head, decode, respond)
        self._count = count = (self._count + 1) % TIMED
        begun = 0.0 if count else perf_counter()
        try:
            query, encode, limit_s = decode()
        except Exception as error:
            respond(self._failed(error, route, head))
            return None
        if not count:
            self.metrics.parse(perf_counter() - begun)
        return self._submit(route, head, query, encode, limit_s, respond)

    def _submit(
        self,
        route: str,
        head: Head,
        query: Query,
        encode: Encode,
        limit_s: float | None,
        respond: Respond,
    ) -> Ticket | None:
        if limit_s is not None:
            limit_s = min(limit_s, self.plane.limits.deadline_s)
        try:
            done = _Waiting(self, route, head, encode, respond).answered
            return self.plane.submit(query, done, limit_s, traceparent(head.headers))
        except Exception as error:
            respond(self._failed(error, route, head))
            return None

    def _told(
        self, told: tuple[bytes, bytes, bytes] | Exception, answer: Answer, route: str, head: Head
    ) -> Reply:
        if isinstance(told, Exception):
            return self._failed(told, route, head)
        self.metrics.request(route, 200)
        body, kind, more = told
        return Reply(200, body, kind, self._headers(head, answer.id.encode()) + more)

    def _headers(self, head: Head, identity: bytes) -> bytes:
        """What every prediction's answer says: its id, the request's, what is served."""
        headers = head.headers
        if b"x-request-id" in headers or b"traceparent" in headers:
            told = self._identify(head, identity)
            return b"x-prediction-id: %b\r\n%b%b" % (identity, self._always, told)
        return b"x-prediction-id: %b\r\n%bx-request-id: %b\r\n" % (
            identity, self._always, identity[-26:],
        )  # fmt: skip

    def _failed(self, error: Exception, route: str, head: Head) -> Reply:
        """The reply to an error; what a stranger may not read goes to the log."""
        if isinstance(error, WrongInput):
            return self.error(400, error.message, head)
        if isinstance(error, mlflow.WrongType):
            return self.error(400 if b"content-type" not in head.headers else 415, str(error), head)
        if isinstance(error, Overloaded):
            return self.error(503, error.message, head)
        if isinstance(error, TooLate):
            return self.error(504, error.message, head)
        identity = head.headers.get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(identity):
            identity = clock.ulid().encode()
            head = Head(head.method, head.path, head.query,
                        {**head.headers, b"x-request-id": identity})  # fmt: skip
        cause = error.__cause__ if isinstance(error, ModelFailed) else error
        _log.error("request %s to %s: %s", identity.decode(), route, error, exc_info=cause)
        word = "the model failed" if isinstance(error, ModelFailed) else "the server failed"
        return self.error(500, f"{word}; the log has request {identity.decode()}", head)

    def _ask_apart(self, route: str, head: Head, decode: Decode, respond: Respond) -> Ticket | None:
        """The same, with the decoding on the codecs' thread."""
        ticket = _Later()

        def decoded(found: tuple[Query, Encode, float | None] | Exception) -> None:
            if ticket.cancelled:
                return
            if isinstance(found, Exception):
                respond(self._failed(found, route, head))
                return
            ticket.behind = self._submit(route, head, *found, respond)

        self._apart(decode, decoded)
        return ticket

    def _apart(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._codecs is None:
            self._codecs = ThreadPoolExecutor(1, thread_name_prefix="codecs")

        def run() -> None:
            try:
                found = work()
            except Exception as error:
                found = error
            loop.call_soon_threadsafe(done, found)

        self._codecs.submit(run)

    # ---- looking ----

    def _root(self, head: Head) -> Reply:
        if b"text/html" not in head.headers.get(b"accept", b""):
            return self._plain({"status": "alive"})  # KServe's V1
        who = self.plane.identity
        html = page.html(
            self.plane.model.signature, input_example(self.plane.model.folder), model=who.model,
            version=str(who.release),
        )  # fmt: skip
        return Reply(200, html, _HTML, page.HEADERS + self._always)

    def _ping(self, _head: Head) -> Reply:
        return Reply(200 if self._is_ready else 503, b"\n", _TEXT, self._always)

    def _version(self, _head: Head) -> Reply:
        return self._plain({"treadle": __version__, **self.plane.info()})

    def _metrics(self, _head: Head) -> Reply:
        capture = self.plane.capture
        if capture is not None:
            self.metrics.capture(capture.captured, capture.dropped)
        return Reply(200, self.metrics.render(), METRICS, self._always)

    def _document(self, _head: Head) -> Reply:
        if self._openapi is None:
            who = self.plane.identity
            self._openapi = json.dumps(openapi.document(
                self.plane.model.signature, self.plane.examples, model=who.model,
                version=str(who.release), example=input_example(self.plane.model.folder),
            ))  # fmt: skip
        return Reply(200, self._openapi, _JSON, self._always)

    def _ready(self, _head: Head) -> Reply:
        # The specification prints `live` here, KServe's client reads `ready`.
        ready = self._is_ready
        return self._plain({"live": True, "ready": ready}, 200 if ready else 503)

    def _model_ready(self, _head: Head) -> Reply:
        ready = self._is_ready
        told = {"name": self.plane.identity.model, "ready": ready}
        return self._plain(told, 200 if ready else 503)

    def _index(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        try:
            found = v2.index(body, model=self.plane.identity.model,
                             version=str(self.plane.identity.release), ready=self._is_ready)  # fmt: skip
        except WrongInput as wrong:
            respond(self.error(400, wrong.message, head))
            return None
        self.metrics.request("/v2/repository/index", 200)
        reply = self._plain(found)
        respond(reply._replace(headers=reply.headers + self._identify(head, None)))
        return None

    # ---- helpers ----

    @property
    def _is_ready(self) -> bool:
        return self.plane.ready and self.metrics.ready()

    def _plain(self, value: Any, status: int = 200) -> Reply:
        return Reply(status, json.dumps(value), _JSON, self._always)

    def _identify(self, head: Head, prediction: bytes | None) -> bytes:
        """`x-request-id`: the client's if well formed, else ours; `traceparent` as it came."""
        headers = head.headers
        identity = headers.get(b"x-request-id")
        if identity is None or not _REQUEST_ID.fullmatch(identity):
            identity = prediction[-26:] if prediction else clock.ulid().encode()
        trace = traceparent(headers)
        if trace:
            return b"x-request-id: %b\r\ntraceparent: %b\r\n" % (identity, trace.encode())
        return b"x-request-id: %b\r\n" % identity

    def _known(self, head: Head) -> bool:
        assert self._token is not None
        scheme, _, given = head.headers.get(b"authorization", b"").partition(b" ")
        # Compared first, so that a wrong scheme takes as long as a wrong token.
        same = hmac.compare_digest(given.strip(), self._token)
        return same and scheme.lower() == b"bearer"

    def _refused(self, head: Head, status: int, message: str, more: bytes = b"") -> Reply:
        reply = self.error(status, message, head)
        return reply._replace(headers=reply.headers + more)

    def _lost(self, head: Head) -> Reply:
        """404, or 405 where another method is known."""
        path = head.path
        if path in self._posts:
            return self._refused(head, 405, "use POST", b"allow: POST\r\n")
        if path in self._gets:
            return self._refused(head, 405, "use GET", b"allow: GET, HEAD\r\n")
        who = self.plane.identity
        if path.startswith(("/v2/models/", "/v1/models/", "/v2/repository/models/")):
            return self._refused(
                head, 404, f"here is the model {who.model}, version {who.release}, and no other; "
                "it is chosen when the server starts",
            )  # fmt: skip
        return self._refused(head, 404, "there is nothing at this path")


class _Waiting:
    """A request whose prediction is awaited."""

    __slots__ = ("encode", "head", "respond", "route", "service")

    def __init__(
        self, service: Predictor, route: str, head: Head, encode: Encode, respond: Respond
    ) -> None:
        self.service, self.route, self.head = service, route, head
        self.encode, self.respond = encode, respond

    def answered(self, answer: Answer | Exception) -> None:
        """The plane's word."""
        service = self.service
        if isinstance(answer, Exception):
            self.respond(service._failed(answer, self.route, self.head))
            return
        if answer.stop - answer.start > LARGE_ROWS:
            service._apart(lambda: self.encode(answer), lambda told: self._tell(told, answer))
            return
        count = service._count
        begun = 0.0 if count else perf_counter()
        try:
            told = self.encode(answer)
        except Exception as error:
            self._tell(error, answer)
            return
        if not count:
            service.metrics.encode(perf_counter() - begun)
        self.respond(service._told(told, answer, self.route, self.head))

    def _tell(self, told: tuple[bytes, bytes, bytes] | Exception, answer: Answer) -> None:
        self.respond(self.service._told(told, answer, self.route, self.head))


class _Later:
    """The ticket of a request whose body is being decoded."""

    def __init__(self) -> None:
        self.cancelled = False
        self.behind: Ticket | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.behind is not None:
            self.behind.cancel()
