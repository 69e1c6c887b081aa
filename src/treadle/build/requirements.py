"""What a model needs to be loaded, pinned to what is installed here; never a subprocess."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

from treadle.base.errors import PipelineError

_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "sklearn": ("scikit-learn",),
    "skops": ("skops",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "pandas": ("pandas",),
    "polars": ("polars",),
    "pyarrow": ("pyarrow",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "lightgbm": ("lightgbm",),
    "catboost": ("catboost",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "torch": ("torch",),
    "cloudpickle": ("cloudpickle",),
    "joblib": ("joblib",),
}
"""Known import names, so that the common case does not read the metadata of every distribution."""

_IMPLIED = {"sklearn": ("numpy", "scipy"), "xgboost": ("numpy", "scipy"),
            "lightgbm": ("numpy", "scipy"), "onnxruntime": ("numpy",),
            "torch": ("numpy",)}  # fmt: skip


def pin(modules: Iterable[str]) -> tuple[str, ...]:
    """`name==version` for the distributions that own these import names, sorted.

    The standard library needs nothing. PipelineError for a module that no distribution owns (the
    project's own code): a model directory could not be loaded elsewhere with it.
    """
    tops = {name.partition(".")[0] for name in modules}
    for top in list(tops):
        tops.update(_IMPLIED.get(top, ()))
    pins: set[str] = set()
    unknown: list[str] = []
    for top in sorted(tops - set(sys.stdlib_module_names) - {"__main__", "builtins"}):
        found = _known(top) or _searched(top)
        if found is None:
            unknown.append(top)
        else:
            # A build's own label (2.13.0+cpu) is on no index; without it, every build will do.
            pins.add(f"{found[0]}=={found[1].partition('+')[0]}")
    if unknown:
        raise PipelineError(
            f"the model needs {', '.join(unknown)}, which no installed package provides",
            hint="a model directory holds no project code: use the library's own classes, or "
            "`trust: pickle`, which stores your classes inside the model",
        )
    return tuple(sorted(pins))


def _known(top: str) -> tuple[str, str] | None:
    for name in _DISTRIBUTIONS.get(top, (top,)):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _searched(top: str) -> tuple[str, str] | None:
    owners = importlib.metadata.packages_distributions().get(top)
    if not owners:
        return None
    name = min(owners)
    return name, importlib.metadata.version(name)
