"""Versions of installed packages by import name, without importing them (or importlib.metadata).

The `*.dist-info` folders of `sys.path` are listed once; an import name is matched to its
distribution by name, by a few well-known aliases, else by `top_level.txt` and `RECORD`. A package
that is installed editable, or that lies on `sys.path` outside of site-packages, has no version that
means anything: its source tree is digested instead.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

from treadle.base.digest import digest, digest_bytes

_ALIASES = {
    "sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python", "yaml": "pyyaml",
    "dateutil": "python-dateutil", "bs4": "beautifulsoup4", "skimage": "scikit-image",
    "attr": "attrs", "dotenv": "python-dotenv", "xgboost": "xgboost-cpu", "umap": "umap-learn",
    "git": "gitpython", "mpl_toolkits": "matplotlib", "jwt": "pyjwt", "psycopg2": "psycopg2-binary", "ruamel": "ruamel-yaml",
}  # fmt: skip
_NORMAL = re.compile(r"[-_.]+")


def _normal(name: str) -> str:
    return _NORMAL.sub("-", name).lower()


class Packages:
    """What is installed, as `sys.path` has it now."""

    def __init__(self, project_roots: Iterable[Path] = ()) -> None:
        self._project_roots = [os.path.abspath(root) for root in project_roots]
        self._listed: dict[str, tuple[str, str]] | None = None
        self._known: dict[str, tuple[str, str] | None] = {}

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """Distribution → version, for full names such as `pandas.DataFrame`; no standard library.

        `source sha256:…` stands for an editable or local package, `not installed` for an absent one.
        """
        found: dict[str, str] = {}
        for name in names:
            root = name.partition(".")[0]
            if not root or root in sys.stdlib_module_names or root == "__future__":
                continue
            if root not in self._known:
                self._known[root] = self._find(root)
            known = self._known[root]
            if known is not None:
                found[known[0]] = known[1]
        return dict(sorted(found.items()))

    def _list(self) -> dict[str, tuple[str, str]]:
        """Normalised distribution name → (version, folder); the first on sys.path wins."""
        if self._listed is None:
            self._listed = {}
            for entry in sys.path:
                try:
                    names = os.listdir(entry or ".")
                except OSError:
                    continue
                for name in names:
                    if name.endswith(".dist-info"):
                        distribution, _, version = name[: -len(".dist-info")].partition("-")
                        self._listed.setdefault(
                            _normal(distribution), (version, os.path.join(entry, name))
                        )
        return self._listed

    def _find(self, root: str) -> tuple[str, str] | None:
        listed = self._list()
        for candidate in (_ALIASES.get(root, root), root):
            entry = listed.get(_normal(candidate))
            if entry is not None:
                return self._described(_normal(candidate), entry)
        local = self._local(root)
        if local is not None:
            return root, f"source {_tree(local)}"
        if not _importable(root):
            return root, "not installed"
        for distribution, entry in listed.items():
            if _provides(entry[1], root):
                return self._described(distribution, entry)
        return root, "not installed"

    def _described(self, distribution: str, entry: tuple[str, str]) -> tuple[str, str]:
        version, folder = entry
        try:
            with open(os.path.join(folder, "direct_url.json"), encoding="utf-8") as file:
                origin = json.load(file)
        except (OSError, ValueError):
            return distribution, version
        if origin.get("dir_info", {}).get("editable"):
            source = Path(unquote(urlparse(origin["url"]).path))
            return distribution, f"{version} source {_tree(source)}"
        return distribution, version

    def _local(self, root: str) -> Path | None:
        """A module on sys.path that no installer put there."""
        for entry in sys.path:
            base = os.path.abspath(entry or ".")
            if "site-packages" in base or "dist-packages" in base or base in self._project_roots:
                continue
            package = Path(base, root)
            if package.is_dir() and any(package.glob("*.py")):
                return package
            module = Path(base, root + ".py")
            if module.is_file():
                return module
        return None


def _importable(root: str) -> bool:
    """Whether anything on sys.path has this name: spares reading what every package installed."""
    return any(
        name == root or name.startswith(f"{root}.")
        for entry in sys.path
        if os.path.isdir(entry or ".")
        for name in os.listdir(entry or ".")
    )


def _provides(dist_info: str, root: str) -> bool:
    try:
        with open(os.path.join(dist_info, "top_level.txt"), encoding="utf-8") as file:
            if root in file.read().split():
                return True
    except OSError:
        pass
    try:
        with open(os.path.join(dist_info, "RECORD"), encoding="utf-8") as file:
            return any(
                line.startswith((f"{root}/", f"{root}.")) and ".dist-info/" not in line
                for line in file
            )
    except OSError:
        return False


def _tree(path: Path) -> str:
    """The digest of a module's or package's Python files."""
    if path.is_file():
        return digest_bytes(path.read_bytes())
    files: dict[str, str] = {}
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in ("__pycache__", "node_modules", "tests")
        )
        for name in sorted(names):
            if name.endswith((".py", ".so", ".pyd")):
                file = Path(folder, name)
                files[file.relative_to(path).as_posix()] = digest_bytes(file.read_bytes())
    return digest(files)
