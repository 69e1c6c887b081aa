"""Whether a cluster can pull an image, found out before its roll-out and not during it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from treadle.base import supervision
from treadle.base.errors import Refused
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster
from treadle.deploy.kubernetes import apply, manifest, preflight, probe
from treadle.deploy.kubernetes.service import STATE, Deployed
from treadle.deploy.kubernetes.wanted import Wanted

_MOST = 50
"""So many images are remembered."""


def look(
    cluster: Cluster,
    wanted: Wanted,
    env_folder: Path,
    context: str,
    *,
    loaded: bool,
    report: Report = silent,
    clock: probe.Clock | None = None,
) -> None:
    """Return when a node has pulled the image, at once where one did before. Refused: none can; the
    release that serves is not touched.

    `loaded`: the image was put into the nodes, and is in no registry.
    """
    known = preflight.seen(env_folder, context)
    if wanted.image in known.pulled:
        return
    _make_room(cluster, wanted, env_folder, context, report)
    report("looking whether a node can pull the image")
    try:
        words = probe.pull(cluster, wanted, always=not loaded, clock=clock or probe.Clock())
    except Refused as error:
        raise Refused(f"{error.message}; nothing of it was applied", hint=error.hint) from None
    if words is not None:
        report(words, warning=True)
        return
    preflight.keep(env_folder, replace(known, pulled=(*known.pulled, wanted.image)[-_MOST:]))


def _make_room(
    cluster: Cluster, wanted: Wanted, env_folder: Path, context: str, report: Report
) -> None:
    """The namespace, where there is none yet: a pod has to be somewhere. Noted as a roll-out's, so
    that `treadle down --everything` knows of it."""
    name = wanted.namespace
    try:
        if cluster.get("v1/Namespace", None, name) is not None:
            return
    except Refused:
        return  # may not be looked at: it is taken to be there
    if supervision.read(env_folder / STATE, Deployed) is None:
        env_folder.mkdir(parents=True, exist_ok=True)
        supervision.write(env_folder / STATE, Deployed(context, name, wanted.name))
    first = [one for one in manifest.render(wanted) if one["kind"] == "Namespace"]
    apply.apply(cluster, first, wanted.name, name, keep=True, report=report)
