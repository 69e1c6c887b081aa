"""Clusters without a registry: the tool that puts an image into the nodes of a local one.

Which tool it is, the context says: minikube signs its entries of the kubeconfig, kind and k3d put
their name before the cluster's, and a k3s on this machine says in its version what it is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from treadle.base.errors import TreadleError, UsageError
from treadle.base.log import Report

_OUTPUT = re.compile(r"(minikube|kind|k3d|k3s)(?::([A-Za-z0-9][\w.-]*))?")
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@dataclass(frozen=True)
class NodeStore:
    """The nodes of one local cluster."""

    tool: str
    name: str = ""
    """Of the cluster as the tool knows it; empty: the tool's own default."""

    def __str__(self) -> str:
        return f"{self.tool}:{self.name}" if self.name else self.tool

    def command(self, archive: str) -> list[str]:
        """What imports an archive into every node."""
        if self.tool == "minikube":
            profile = ["--profile", self.name] if self.name else []
            return ["minikube", *profile, "image", "load", archive]
        if self.tool == "kind":
            return ["kind", "load", "image-archive", archive, *(["--name", self.name] if self.name else [])]  # fmt: skip
        if self.tool == "k3d":
            return ["k3d", "image", "import", archive, *(["--cluster", self.name] if self.name else [])]  # fmt: skip
        return ["k3s", "ctr", "images", "import", archive]

    def missing(self) -> UsageError | None:
        """What is to be said where the tool is not here."""
        if shutil.which(self.tool) is not None:
            return None
        return UsageError(
            f"there is no `{self.tool}` command here, which puts images into the nodes of {self}",
            hint=f"install {self.tool}, or name a registry that the cluster pulls from: "
            "deploy: {NAME: {image: registry.example.com/team/name}}",
        )

    def load(self, archive: Path, report: Report) -> None:
        """Import an archive. TreadleError with the tool's own words."""
        absent = self.missing()
        if absent is not None:
            raise absent
        command = self.command(str(archive))
        report(f"loading the image into the nodes of {self}")
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-500:]
            raise TreadleError(
                f"`{' '.join(command[:-1])} …` ended with exit code {done.returncode}: {said}",
                hint="k3s wants root: run as root, or name a registry in image:"
                if self.tool == "k3s"
                else f"does the cluster run? {self.tool} can say",
            )


def parse(output: str) -> NodeStore | None:
    """`minikube`, `minikube:PROFILE`, `kind:NAME`, `k3d:NAME`, `k3s`; None if it is none of these."""
    match = _OUTPUT.fullmatch(output)
    return None if match is None else NodeStore(match[1], match[2] or "")


def of_context(context: str, build: Callable[[], str]) -> NodeStore:
    """The nodes of a context's cluster. `build` asks the cluster for its version in full. UsageError:
    it pulls from a registry, and none is named."""
    from treadle.clients import kubeconfig

    about = kubeconfig.read(context)
    if context == "minikube" or "minikube.sigs.k8s.io" in about.providers():
        return NodeStore("minikube", context)
    for tool in ("kind", "k3d"):
        if context.startswith(f"{tool}-"):
            return NodeStore(tool, context.removeprefix(f"{tool}-"))
    if urlsplit(about.server).hostname in _HERE and "+k3s" in build():
        return NodeStore("k3s")
    raise UsageError(
        f"the cluster of {context} pulls its images from a registry, and none is named",
        hint="deploy: {NAME: {image: registry.example.com/team/name}}",
    )
