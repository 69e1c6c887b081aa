"""One repository of a registry: manifests, blobs, mounts, uploads that go on where they broke off.

A blob is sent only if it is not there: first asked for, then mounted from where the registry has it,
then streamed. An upload that breaks is continued at the byte where the registry says it stopped, in
this call or the next one. Registries differ: what is done about each difference stands where it is
done.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from treadle.base.digest import digest as digest_of
from treadle.base.digest import digest_bytes
from treadle.base.errors import DiskFull, Refused, StateCorrupt, TreadleError, Unreachable
from treadle.base.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Descriptor,
)
from treadle.base.log import Report, silent
from treadle.clients.cache import Cache
from treadle.clients.oci import store
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.store import Checked, Manifest, Put
from treadle.clients.oci.transport import Answer, Transport, said

_ACCEPT = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"
_MONOLITHIC_BYTES = 4 << 20
"""A smaller blob goes in one PUT: one round trip less, and nothing worth to be continued."""
_CHUNK_BYTES = 32 << 20
_CONTINUED = 6
"""So often one upload is taken up again in one call."""
_LARGEST_MANIFEST = 8 << 20


class Registry:
    """A repository of a registry, as a Store."""

    def __init__(
        self,
        reference: Reference,
        *,
        transport: Transport | None = None,
        cache: Cache | None = None,
        report: Report = silent,
    ) -> None:
        self.reference = reference
        self._transport = transport or Transport(reference, report=report)
        self._cache = cache or Cache()
        self._path = f"v2/{reference.repository}"
        self._pull = f"repository:{reference.repository}:pull"
        self._push = f"repository:{reference.repository}:pull,push"
        self._no_referrers = False
        self._index_lock = threading.Lock()
        self._writes = False

    # ---- reading ----

    def manifest(self, name: str) -> Manifest:
        """See Store."""
        answer = self._ask("GET", f"manifests/{name}", headers={"Accept": _ACCEPT})
        if answer.status == 404:
            answer.read()
            raise store.unknown(f"{self.reference.registry}/{self.reference.repository}", name)
        data = self._good(answer, f"manifest {name}").read(_LARGEST_MANIFEST)
        digest = digest_bytes(data)
        if name.startswith("sha256:") and digest != name:
            raise StateCorrupt(
                f"{self.reference.registry} gave for the manifest {name[:19]}… another one "
                f"({digest[:19]}…)",
                hint="a proxy that caches wrongly, or a damaged registry",
            )
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        told = self._plain(data, f"manifest {name}", kind)
        if kind not in (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX):
            kind = str(told.get("mediaType") or kind)
        return Manifest(data, kind, digest)

    def find(self, name: str) -> str | None:
        """See Store."""
        answer = self._ask("HEAD", f"manifests/{name}", headers={"Accept": _ACCEPT})
        answer.close()
        if answer.status == 404:
            return None
        self._good(answer, f"manifest {name}")
        told = answer.headers.get("Docker-Content-Digest")
        return told or self.manifest(name).digest

    def has_blob(self, digest: str) -> bool:
        """See Store."""
        answer = self._ask("HEAD", f"blobs/{digest}")
        answer.close()
        if answer.status == 404:
            return False
        self._good(answer, f"blob {digest}")
        return True

    def open_blob(self, digest: str, size_bytes: int) -> BinaryIO:
        """See Store."""
        answer = self._ask("GET", f"blobs/{digest}")
        if answer.status == 404:
            answer.read()
            raise store.unknown(f"{self.reference.registry}/{self.reference.repository}", digest)
        self._good(answer, f"blob {digest}")
        source = _Received(answer)
        return cast("BinaryIO", Checked(source, digest, size_bytes, answer.close))

    def tags(self) -> list[str]:
        """See Store."""
        found: list[str] = []
        url: str | None = f"{self._path}/tags/list"
        while url is not None:
            answer = self._transport.request("GET", url, scope=self._pull)
            if answer.status == 404:
                answer.read()
                return []
            data = self._good(answer, "list of tags").read()
            found += self._plain(data, "list of tags").get("tags") or []
            url = _next(answer, url)
        return sorted(found)

    # ---- blobs ----

    def put_blob(self, blob: Blob) -> Put:
        """See Store: asked for, mounted, or sent."""
        self._writes = True
        if self.has_blob(blob.digest):
            return "had"
        location: str | None = None
        if blob.origin is not None and blob.origin[0] == self.reference.registry:
            mounted = self._mount(blob, blob.origin[1])
            if mounted is True:
                return "mounted"
            location = mounted or None
        if blob.size_bytes <= _MONOLITHIC_BYTES:
            self._put_whole(blob, location or self._begin(blob)[0])
        else:
            self._put_streamed(blob, location)
        return "sent"

    def _mount(self, blob: Blob, source: str) -> bool | str:
        """True if the registry made it ours; else where it wants the bytes instead, or False."""
        scope = f"{self._push} repository:{source}:pull"
        query = urllib.parse.urlencode({"mount": blob.digest, "from": source})
        try:
            answer = self._transport.request(
                "POST", f"{self._path}/blobs/uploads/?{query}", scope=scope
            )
        except Refused:
            return False  # who may write here need not be one who may read there
        location = answer.headers.get("Location")
        answer.read()
        if answer.status == 201:
            return True
        # 202: this registry does not mount this blob (ECR: not in a manifest yet; Artifactory:
        # never) and has begun an upload instead. Anything else: an upload of our own says why.
        return self._absolute(location, answer) if answer.status == 202 and location else False

    def _begin(self, blob: Blob) -> tuple[str, int]:
        """Where to send a blob, and the least that a piece of it may have."""
        answer = self._transport.request("POST", f"{self._path}/blobs/uploads/", scope=self._push)
        self._good(answer, f"upload of {blob.title or blob.digest}", 202)
        location = self._absolute(answer.headers.get("Location"), answer)
        least = answer.headers.get("OCI-Chunk-Min-Length", "0")
        answer.read()
        return location, int(least) if least.isdigit() else 0

    def _put_whole(self, blob: Blob, location: str) -> None:
        for attempt in range(_CONTINUED):
            try:
                answer = self._transport.request(
                    "PUT", _with_digest(location, blob.digest), scope=self._push,
                    headers={"Content-Type": "application/octet-stream"},
                    body=blob.open, size=blob.size_bytes, retry=False,
                )  # fmt: skip
                if answer.status not in (404, 500, 502, 503, 504) or attempt == _CONTINUED - 1:
                    self._good(answer, f"blob {blob.title or blob.digest}", 201)
                    answer.read()
                    return
                answer.read()
                if answer.status != 404:
                    self._pause(attempt + 1, answer)
            except ConnectionError as error:
                if attempt == _CONTINUED - 1:
                    raise self._broken(blob, error) from None
                self._pause(attempt + 1)
            if self.has_blob(blob.digest):  # it came, and only the answer was lost
                return
            location = self._begin(blob)[0]

    def _put_streamed(self, blob: Blob, location: str | None) -> None:
        """A large blob: one long PATCH, taken up again where it broke; then the digest seals it."""
        key = digest_of([self.reference.registry, self.reference.repository, blob.digest])
        offset, piece, earlier = 0, 0, None
        if location is None:
            earlier = self._cache.get("uploads", key)
            at = self._where(earlier) if earlier else None
            if at is not None and at[1] <= blob.size_bytes:
                location, offset = at
        failures, least = 0, 0
        if location is None:
            location, least = self._begin(blob)
        self._cache.put("uploads", key, location)
        while offset < blob.size_bytes:
            end = blob.size_bytes if not piece else min(offset + max(piece, least), blob.size_bytes)
            try:
                answer = self._patch(blob, location, offset, end)
            except ConnectionError as error:
                failures += 1
                if failures == _CONTINUED:
                    raise self._broken(blob, error) from None
                self._pause(failures)
                at = self._where(location)
                if at is None:
                    location, least = self._begin(blob)
                    at = (location, 0)
                location, offset = at
                self._cache.put("uploads", key, location)
                continue
            if answer.status in (200, 201, 202, 204):
                location = self._absolute(answer.headers.get("Location"), answer, location)
                answer.read()
                offset = end
                self._cache.put("uploads", key, location)
                continue
            text = said(answer.read())
            failures += 1
            if failures == _CONTINUED:
                raise self._refused(answer, f"blob {blob.title or blob.digest}", text)
            if answer.status == 413:  # it takes only so much at once
                piece = _CHUNK_BYTES if not piece else max(piece // 2, 1 << 20)
            elif answer.status not in (404, 416, 500, 502, 503, 504):
                raise self._refused(answer, f"blob {blob.title or blob.digest}", text)
            elif answer.status >= 500:
                self._pause(failures, answer)
            at = self._where(location)
            if at is None:
                location, least = self._begin(blob)
                at = (location, 0)
            location, offset = at
            self._cache.put("uploads", key, location)
        sealed = self._seal(blob, location, again=earlier is not None)
        self._cache.put("uploads", key, None)
        if not sealed:  # what an earlier call left there was something else
            self._put_streamed(blob, None)

    def _patch(self, blob: Blob, location: str, offset: int, end: int) -> Answer:
        return self._transport.request(
            "PATCH", location, scope=self._push, retry=False,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{offset}-{end - 1}",
            },
            body=_from(blob, offset, end), size=end - offset,
        )  # fmt: skip

    def _seal(self, blob: Blob, location: str, *, again: bool) -> bool:
        """Name what was sent; False if it is not the blob and was not begun by this call."""
        try:
            answer = self._transport.request(
                "PUT", _with_digest(location, blob.digest), scope=self._push, body=b""
            )
        except Unreachable:
            if self.has_blob(blob.digest):
                return True
            raise
        text = said(answer.read())
        if answer.status == 201 or self.has_blob(blob.digest):
            return True  # another status: an earlier answer was lost
        if again and answer.status in (400, 404, 416):
            return False
        raise self._refused(answer, f"blob {blob.title or blob.digest}", text)

    def _pause(self, attempt: int, answer: Answer | None = None) -> None:
        host = self.reference.registry
        if answer is None:
            self._transport.wait(attempt, None, f"sending to {host} broke off")
        else:
            told = answer.headers.get("Retry-After")
            self._transport.wait(attempt, told, f"{host} answers {answer.status}")

    def _where(self, location: str) -> tuple[str, int] | None:
        """How much of an upload has arrived, by the registry's word; None if it is forgotten."""
        try:
            answer = self._transport.request("GET", location, scope=self._push)
        except (Unreachable, Refused):
            return None
        answer.read()
        if answer.status != 204:
            return None
        told = answer.headers.get("Range", "")
        last = told.rpartition("-")[2]
        # An upload with nothing in it says 0-0, as one with a single byte does: a new one is clear.
        if not last.isdigit() or int(last) == 0:
            return None
        return self._absolute(answer.headers.get("Location"), answer, location), int(last) + 1

    # ---- manifests ----

    def put_manifest(self, data: bytes, media_type: str, tag: str | None) -> str:
        """See Store."""
        return self._put_manifest(data, media_type, tag)[0]

    def _put_manifest(self, data: bytes, media_type: str, tag: str | None) -> tuple[str, Answer]:
        digest = digest_bytes(data)
        answer = self._transport.request(
            "PUT", f"{self._path}/manifests/{tag or digest}", scope=self._push,
            headers={"Content-Type": media_type}, body=data,
        )  # fmt: skip
        self._good(answer, f"manifest {tag or digest}", 201)
        answer.read()
        told = answer.headers.get("Docker-Content-Digest")
        if told not in (None, digest):
            raise StateCorrupt(f"{self.reference.registry} stored {told} instead of {digest}")
        return digest, answer

    # ---- attached ----

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """See Store: by the referrers API, else by the fallback tag."""
        answer = self._transport.request(
            "GET", f"{self._path}/referrers/{digest}", scope=self._pull
        )
        data = answer.read()
        if answer.status != 200:
            tag = store.fallback_tag(digest)
            if self.find(tag) is None:
                return []
            data = self.manifest(tag).data
        told = self._plain(data, "list of referrers")
        found = [store.described(one) for one in told.get("manifests") or []]
        return [one for one in found if artifact_type in (None, one.artifact_type)]

    def attach(
        self, subject: Descriptor, artifact_type: str, blob: Blob, annotations: Mapping[str, str]
    ) -> str:
        """See Store."""
        data, empty = store.artifact(subject, artifact_type, blob, annotations)
        digest = digest_bytes(data)
        # Being there is not enough: a call that was cut off may not have listed it.
        if any(one.digest == digest for one in self.referrers(subject.digest)):
            return digest
        for one in (empty, blob):
            self.put_blob(one)
        _, answer = self._put_manifest(data, OCI_MANIFEST, None)
        if answer.headers.get("OCI-Subject") is None:
            entry = Descriptor(
                OCI_MANIFEST, digest, len(data), annotations=tuple(annotations.items()),
                artifact_type=artifact_type,
            )  # fmt: skip
            with self._index_lock:
                self._list_beside(subject.digest, entry)
        return digest

    def _list_beside(self, subject: str, entry: Descriptor) -> None:
        """Add to the index that stands for the referrers API where a registry has none."""
        tag = store.fallback_tag(subject)
        entries: list[Any] = []
        if self.find(tag) is not None:
            entries = self.manifest(tag).plain.get("manifests") or []
        if any(one["digest"] == entry.digest for one in entries):
            return
        told = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry.plain()]}
        data = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        self._put_manifest(data, OCI_INDEX, tag)

    # ---- how ----

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        # One token for a whole push: who writes asks for the wider scope from the beginning.
        scope = self._push if self._writes else self._pull
        return self._transport.request(method, f"{self._path}/{path}", scope=scope, headers=headers)

    def _absolute(self, location: str | None, answer: Answer, before: str = "") -> str:
        if location is None:
            if before:
                return before
            raise TreadleError(
                f"{self.reference.registry} begins an upload and does not say where "
                f"(status {answer.status}, no Location)"
            )
        return urllib.parse.urljoin(self._transport.base + "/", location)

    def _good(self, answer: Answer, what: str, *wanted: int) -> Answer:
        if answer.status in (wanted or (200,)):
            return answer
        raise self._refused(answer, what, said(answer.read()))

    def _plain(self, data: bytes, what: str, kind: str = "") -> dict[str, Any]:
        """What a registry says in JSON. TreadleError: it is something else."""
        with contextlib.suppress(ValueError):
            told = json.loads(data)
            if isinstance(told, dict):
                return told
        raise TreadleError(
            f"{self.reference.registry} answers for the {what} with something else"
            + (f" ({kind})" if kind else ""),
            hint="is it a registry? A proxy before it may have answered",
        )

    def _refused(self, answer: Answer, what: str, text: str) -> TreadleError:
        where = f"{self.reference.registry}/{self.reference.repository}"
        words = f"{where} does not take the {what}: {answer.status}" + (
            f" ({text})" if text else ""
        )
        if answer.status in (401, 403):
            return Refused(
                words, hint=f"docker login {self.reference.registry}, as one who may push"
            )
        if answer.status == 405:
            return Refused(words, hint="the registry is read-only, or it cannot do this")
        if answer.status == 404:
            return Refused(
                words, hint="does the repository exist? Some registries want it to be made first"
            )
        if answer.status == 507 or "space left" in text or "quota" in text.lower():
            return DiskFull(words, hint="the registry is full: delete old images there")
        if answer.status >= 500 or answer.status == 429:
            return Unreachable(words, hint="try again; what arrived is not sent again")
        return TreadleError(words)

    def _broken(self, blob: Blob, error: Exception) -> Unreachable:
        return Unreachable(
            f"sending {blob.title or blob.digest} to {self.reference.registry} broke off "
            f"{_CONTINUED} times: {error}",
            hint="run the command again: it goes on where it stopped",
        )

    def close(self) -> None:
        """Close connections."""
        self._transport.close()


def _with_digest(location: str, digest: str) -> str:
    return location + ("&" if "?" in location else "?") + f"digest={urllib.parse.quote(digest)}"


def _next(answer: Answer, url: str) -> str | None:
    """The next page of a list: `Link: </v2/…?last=…>; rel="next"`."""
    link = answer.headers.get("Link", "")
    if 'rel="next"' not in link or "<" not in link:
        return None
    return urllib.parse.urljoin("/" + url, link.partition("<")[2].partition(">")[0])


def _from(blob: Blob, offset: int, end: int) -> Callable[[], BinaryIO]:
    """Bytes `offset` to `end` of a blob; a stream that cannot seek is read up to there."""

    def opened() -> BinaryIO:
        source = blob.open()
        left = offset
        if left:
            try:
                source.seek(offset)
                left = 0
            except (OSError, AttributeError, ValueError):
                pass
        while left:
            got = source.read(min(left, 1 << 20))
            if not got:
                break
            left -= len(got)
        return cast("BinaryIO", _Part(source, end - offset))

    return opened


class _Received:
    """A blob's bytes as they come from a registry."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def read(self, size: int | None = None) -> bytes:
        if size is not None:
            return self._answer.piece(size)
        return b"".join(iter(lambda: self._answer.piece(1 << 20), b""))


class _Part:
    """At most so many bytes of a stream."""

    def __init__(self, source: BinaryIO, left: int) -> None:
        self._source, self._left = source, left

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = self._source.read(wanted) if wanted else b""
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._source.close()
