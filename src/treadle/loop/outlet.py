"""Where a built image goes: a registry, a layout folder, a file, an engine, a cluster's nodes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from treadle.base.errors import TreadleError, UsageError
from treadle.base.image import Blob, BuiltImage
from treadle.base.log import Report
from treadle.clients.cache import Cache
from treadle.clients.docker import LABEL, DockerCommand, Engine
from treadle.clients.oci import archive
from treadle.clients.oci.layout import Layout
from treadle.clients.oci.push import push
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.registry import Registry
from treadle.clients.oci.store import Store
from treadle.loop import node_store
from treadle.loop.subject import Subject

Attachments = Callable[[], list[tuple[BuiltImage, str, bytes, dict[str, str]]]]


@dataclass(frozen=True)
class Sent:
    """Where an image is now."""

    reference: str
    sent_bytes: int = 0
    blobs: dict[str, str] = field(default_factory=dict)


def send(
    made: Sequence[BuiltImage],
    index: Blob | None,
    output: str,
    about: Subject,
    *,
    force: bool,
    cache: Cache,
    report: Report,
    attach: Attachments,
) -> Sent:
    """Have the image at `output`: `registry/name[:tag]`, `oci:DIR`, `tar:FILE`, `docker[:NAME]`,
    or the nodes of a local cluster (`minikube[:PROFILE]`, `kind[:NAME]`, `k3d[:NAME]`, `k3s`)."""
    kind, colon, rest = output.partition(":")
    top = index.digest if index is not None else made[0].digest
    if kind == "oci" and colon:
        folder, tag = _folder(rest)
        layout = Layout(Path(folder), create=True)
        sent = _push(made, index, layout, tag or _tag(top), force, report, attach)
        return Sent(f"oci:{folder}@{top}", sent.sent_bytes, sent.blobs)
    if kind == "tar" and colon:
        size = archive.write(_single(made, "a file"), Path(rest), [_name(about, top)])
        return Sent(f"tar:{rest}@{top}", size)
    nodes = node_store.parse(output)
    if nodes is not None:
        return _into_nodes(nodes, _single(made, f"a node of {nodes}"), about, report)
    if kind == "docker" and not re.match(r"\d+/", rest):  # that were a registry named docker
        name = f"{rest}" if rest else _name(about, top)
        name = name if ":" in name else f"{name}:{_tag(top)}"
        return into_engine(DockerCommand(), _single(made, "an engine"), name, report)
    reference = Reference.parse(output)
    if reference.digest is not None:
        raise UsageError(
            f"{output} names an image by digest, which is what a build finds out",
            hint="leave out the part after @",
        )
    place = Registry(reference, cache=cache, report=report)
    try:
        sent = _push(made, index, place, reference.tag or _tag(top), force, report, attach)
    finally:
        place.close()
    return Sent(str(reference.at(top)), sent.sent_bytes, sent.blobs)


def _push(
    made: Sequence[BuiltImage],
    index: Blob | None,
    to: Store,
    tag: str,
    force: bool,
    report: Report,
    attach: Attachments,
) -> Sent:
    done = push(made, index, to, tag, force=force, report=report)
    if done.blobs:  # what is there already has its documents
        for image, kind, data, told in attach():
            to.attach(image.manifest.descriptor, kind, Blob.of_bytes(data, kind, title=kind), told)
    return Sent("", done.sent_bytes, {title: str(put) for title, put in done.blobs.items()})


def into_engine(engine: Engine, image: BuiltImage, name: str, report: Report) -> Sent:
    """Load an image into an engine under a name; layers that it has are not sent."""
    present = engine.image(name)
    if present is not None and present["layers"] == [layer.diff_id for layer in image.layers]:
        known = engine.image(image.config.digest) or engine.image(image.digest)
        if known is not None and known["id"] == present["id"]:
            return Sent(present["id"])
    skipped = _shared(engine, image)
    size = 0

    def counted(without: set[str]) -> Iterator[bytes]:
        nonlocal size
        size = 0
        for piece in archive.pieces(image, [name], without=without):
            size += len(piece)
            yield piece

    try:
        engine.load(counted(skipped))
    except TreadleError:
        if not skipped:
            raise
        report("the engine wants the lower layers too", detail=True)
        engine.load(counted(set()))
    found = engine.image(name)
    if found is None:
        raise TreadleError(f"the engine took the archive and does not have {name}")
    return Sent(found["id"], size)


def _shared(engine: Engine, image: BuiltImage) -> set[str]:
    """Digests of the lower layers that the engine has, in this very order, from a build before."""
    ours = [layer.diff_id for layer in image.layers]
    most = 0
    for other in engine.images(f"{LABEL}.purpose"):
        common = 0
        for mine, theirs in zip(ours, other["layers"], strict=False):
            if mine != theirs:
                break
            common += 1
        most = max(most, common)
    return {layer.digest for layer in image.layers[:most]}


def _into_nodes(
    nodes: node_store.NodeStore, image: BuiltImage, about: Subject, report: Report
) -> Sent:
    """Import an image into the nodes of a local cluster by its own tool."""
    name = _name(about, image.digest)
    with tempfile.TemporaryDirectory(prefix="treadle-image-") as folder:
        path = Path(folder) / "image.tar"
        size = archive.write(image, path, [name])
        nodes.load(path, report)
    return Sent(name, size)


def _single(made: Sequence[BuiltImage], what: str) -> BuiltImage:
    if len(made) != 1:
        raise UsageError(
            f"{what} takes an image for one platform, and {len(made)} were asked for",
            hint="build --platform with one, or push to a registry or a layout",
        )
    return made[0]


def _folder(text: str) -> tuple[str, str | None]:
    """`DIR` or `DIR:TAG`."""
    folder, colon, tag = text.rpartition(":")
    return (folder, tag) if colon and folder and "/" not in tag else (text, None)


def _tag(digest: str) -> str:
    """A tag that names this content and no other."""
    return digest.removeprefix("sha256:")[:12]


def _name(about: Subject, digest: str) -> str:
    return f"treadle/{about.name}-{about.purpose}:{_tag(digest)}"
