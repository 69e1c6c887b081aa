"""Sending built images: blobs several at once, the manifest last, nothing twice.

Nothing is half-published: a tag or a digest names an image only when every blob of it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from treadle.base.digest import short
from treadle.base.errors import Refused
from treadle.base.image import Blob, BuiltImage
from treadle.base.log import Report, silent
from treadle.clients.oci.store import Put, Store

AT_ONCE = 4


@dataclass(frozen=True)
class Pushed:
    """What came of sending an image."""

    digest: str
    tag: str | None
    blobs: dict[str, Put] = field(default_factory=dict)
    """Title → had, mounted or sent; empty if the image was there already. Of blobs with one title
    (the same wheel for two platforms) the later ones' titles have their digest's first digits."""
    sent_bytes: int = 0


def push(
    images: Sequence[BuiltImage],
    index: Blob | None,
    to: Store,
    tag: str | None,
    *,
    force: bool = False,
    report: Report = silent,
) -> Pushed:
    """Have an image (or an index of several) in a store, under its digest and perhaps a tag.

    Refused: the tag exists with other content, and `force` is not said.
    """
    top = index if index is not None else images[0].manifest
    present = to.find(tag) if tag is not None else to.find(top.digest)
    if present == top.digest:
        report(f"{top.digest[:19]}… is there already", detail=True)
        return Pushed(top.digest, tag)
    if present is not None and tag is not None and not force:
        raise Refused(
            f"the tag {tag} exists with other content ({present[:19]}…)",
            hint="choose another tag, or move this one with --force",
        )
    blobs = _each(blob for image in images for blob in (*image.layers, image.config))
    report(f"sending {len(blobs)} blobs, what is not there yet", detail=True)
    done = _all(blobs, to.put_blob)
    for image in images:
        if index is not None:
            to.put_manifest(_read(image.manifest), image.manifest.descriptor.media_type, None)
    to.put_manifest(_read(top), top.descriptor.media_type, tag)
    sent = sum(blob.size_bytes for blob in blobs if done[blob.digest] == "sent")
    return Pushed(top.digest, tag, _titled(blobs, done), sent)


def _each(blobs: Iterable[Blob]) -> list[Blob]:
    """Every blob once, the largest first: the last one to end is then a small one."""
    found = {blob.digest: blob for blob in blobs}
    return sorted(found.values(), key=lambda blob: (-blob.size_bytes, blob.digest))


def _titled(blobs: Iterable[Blob], done: Mapping[str, Put]) -> dict[str, Put]:
    found: dict[str, Put] = {}
    for blob in blobs:
        title = blob.title if blob.title not in found else f"{blob.title} ({short(blob.digest)})"
        found[title] = done[blob.digest]
    return found


def _all(blobs: Sequence[Blob], put: Callable[[Blob], Put]) -> dict[str, Put]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        work = {blob.digest: pool.submit(put, blob) for blob in blobs}
        try:
            return {digest: future.result() for digest, future in work.items()}
        except BaseException:
            for future in work.values():
                future.cancel()
            raise


def _read(blob: Blob) -> bytes:
    with blob.open() as stream:
        return stream.read()
