"""The Kubernetes that the cluster tests ask: the current context of the kubeconfig."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.clients.kube import ApiCluster

HINT = "minikube start, then make test-cluster"


def kubectl(*arguments: str, document: object = None, check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], capture_output=True, text=True, check=False,
        input=None if document is None else json.dumps(document),
    )  # fmt: skip
    assert done.returncode == 0 or not check, (arguments, done.stderr)
    return done.stdout


@functools.cache
def missing() -> str | None:
    """Why there is no cluster to ask, or None."""
    if shutil.which("kubectl") is None:
        return f"needs kubectl and a cluster: {HINT}"
    done = subprocess.run(
        ["kubectl", "version", "--request-timeout", "5s"], capture_output=True, check=False
    )
    return None if done.returncode == 0 else f"needs a Kubernetes: {HINT}"


def require() -> None:
    """Skip, or fail where skips are not allowed, unless a cluster answers."""
    why = missing()
    if why and os.environ.get("TREADLE_NO_SKIPS"):
        pytest.fail(why)
    if why:
        pytest.skip(why)


@contextlib.contextmanager
def alone(what: str) -> Iterator[None]:
    """No other of the tests' processes has to do with something that a cluster has once."""
    with open(Path(tempfile.gettempdir(), f"treadle-tests-{what}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def context() -> str:
    require()
    return kubectl("config", "current-context").strip()


def registry() -> str:
    """A registry that the tests push to and the cluster pulls from."""
    found = os.environ.get("TREADLE_TEST_REGISTRY") or os.environ.get("KUBEBOX_REGISTRY")
    if not found:
        pytest.skip("needs a registry that the cluster pulls from: TREADLE_TEST_REGISTRY=HOST:PORT")
    return found


@functools.cache
def python_image() -> str:
    """A small image with Python in it, pushed where the cluster pulls from, by digest."""
    from tests.support import base_image, images

    from treadle.base.image import Blob, Descriptor
    from treadle.clients.oci.layout import Layout
    from treadle.clients.oci.reference import Reference
    from treadle.clients.oci.registry import Registry

    images.require("base")
    os.environ["TREADLE_INSECURE_REGISTRIES"] = registry()
    layout = Layout(base_image.layout())
    (tag,) = layout.tags()
    manifest = layout.manifest(tag)
    name = Reference.parse(f"{registry()}/tests/python")
    place = Registry(name)
    try:
        for one in (manifest.plain["config"], *manifest.plain["layers"]):
            told = Descriptor(one["mediaType"], one["digest"], one["size"])
            place.put_blob(
                Blob(told, lambda told=told: layout.open_blob(told.digest, told.size_bytes))
            )
        place.put_manifest(manifest.data, manifest.media_type, "latest")
    finally:
        place.close()
    return str(name.at(manifest.digest))


def connect() -> ApiCluster:
    return ApiCluster(context())
