"""Names of images: `name`, `registry/name:tag`, `registry:5000/name@sha256:…`.

Source: the reference grammar of distribution (reference/reference.go) and Docker's rule that a
first component is a registry only if it has a dot, a colon or is `localhost`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from treadle.base.errors import UsageError

HUB = "docker.io"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)


@dataclass(frozen=True)
class Reference:
    """Where an image is: registry, repository, and a tag or a digest or both or neither."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as people write it. UsageError says what is wrong with it."""
        rest, at, digest = text.partition("@")
        # An empty one too: `name@$DIGEST` with an empty variable must not float.
        if at and not _DIGEST.fullmatch(digest):
            raise _bad(text, f"{digest!r} is no digest (sha256: and 64 hex digits)")
        head, slash, tail = rest.partition("/")
        registry = HUB
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, rest = head, tail
            if not _HOST.fullmatch(registry):
                raise _bad(text, f"{registry!r} is no registry's address")
        name, colon, tag = rest.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _bad(text, f"{tag!r} is no tag (letters, digits, . _ -; at most 128)")
        if registry in ("index.docker.io", "registry-1.docker.io"):
            registry = HUB
        if registry == HUB and "/" not in name:
            name = f"library/{name}"
        if not name or not all(_COMPONENT.fullmatch(part) for part in name.split("/")):
            upper = name.lower() != name
            raise _bad(text, f"{name!r} is no repository" + (": it has capitals" if upper else ""))
        if len(name) > 255:
            raise _bad(text, "the repository's name is longer than 255 characters")
        return cls(registry, name, tag or None, digest or None)

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}" + (
            (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        )

    @property
    def wanted(self) -> str:
        """What is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> Reference:
        """The same repository, by digest alone."""
        return replace(self, tag=None, digest=digest)

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where plain HTTP is usual."""
        host = self.registry.rpartition(":")[0] if _port(self.registry) else self.registry
        host = host.strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def _port(registry: str) -> bool:
    return bool(re.search(r":\d+$", registry)) and not registry.endswith("]")


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r} names no image: {why}", hint="for example registry.example.com/team/flights:1"
    )
