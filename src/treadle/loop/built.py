"""Images that were built before, by what the journal says of them.

Apart from `image`, which builds: `render` asks for no more than this, and pays for no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.base.errors import UsageError
from treadle.base.records import Release
from treadle.base.spec import KubernetesTarget
from treadle.clients.oci.reference import Reference
from treadle.loop.project import Project


@dataclass(frozen=True)
class Ready:
    """An image where an engine can run it."""

    reference: str
    """What the engine knows it by."""
    digest: str


def known(
    project: Project, place: str, release: Release, target: KubernetesTarget,
    purpose: str = "serve",
) -> Ready:  # fmt: skip
    """The image of a release that was built before. UsageError: none was."""
    digest_ = project.journal.get("image_of", f"{place}/{release.number:06d}")
    if digest_ is None:
        raise UsageError(
            f"no image of release {release.number} was built yet",
            hint=f"treadle build --env {place}{' --for batch' if purpose == 'batch' else ''}, "
            f"or treadle up --env {place}",
        )
    if target.image is None:  # loaded into a node, where nothing is known by digest
        name = f"treadle/{project.spec.project}-{purpose}:{str(digest_)[7:19]}"
        return Ready(name, str(digest_))
    name = target.image
    return Ready(str(Reference.parse(name).at(str(digest_))), str(digest_))
