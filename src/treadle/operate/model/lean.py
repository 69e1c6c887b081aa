"""Importing scikit-learn without what a server of matrices never needs: pandas, scipy.stats, f2py.

scikit-learn 1.9 imports both when it is itself imported, and uses neither then: pandas is imported
where it is there, to look at its version (`sklearn.utils.fixes`; every other use of pandas is an
import of its own, at the call that needs it); of scipy.stats it takes single functions, which it
calls when a model needs them. Here pandas is not found while that one module is imported, and
functions of scipy.stats are stand-ins that import it when they are first called. SciPy itself imports
all of numpy's submodules by a star: its compiler of Fortran and its test helpers are loaded when they
are first looked into. That saves half of the time until a model is loaded, and 80 MB; nothing is
different afterwards for who imports pandas or scipy.stats.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_STATS = "scipy.stats"
_LATER = frozenset(("chi2", "gmean", "rankdata", "spearmanr"))
"""What scikit-learn's modules take out of scipy.stats when they are imported."""
_ON_DEMAND = ("numpy.f2py", "numpy.testing")


@contextmanager
def imports() -> Iterator[None]:
    """While this is open, scikit-learn is imported leanly, if nothing of it was imported before."""
    if {"sklearn", "pandas", _STATS} & sys.modules.keys():
        yield
        return
    for name in _ON_DEMAND:
        _on_demand(name)
    importlib.import_module("scipy")
    finder, stats = _NoPandas(), _Stats(_STATS)
    sys.modules[_STATS] = stats
    try:
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module("sklearn.utils.fixes")
        finally:
            sys.meta_path.remove(finder)
        yield
    finally:
        stats.importing = False
        if sys.modules.get(_STATS) is stats:
            del sys.modules[_STATS]


def _on_demand(name: str) -> None:
    """Import a module so that it is loaded when it is first looked into (importlib's recipe)."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader = spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, module)


class _NoPandas:
    """Says that pandas is not installed."""

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not needed yet", name=name)


class _Stats(ModuleType):
    """Stands for scipy.stats: scikit-learn's modules get stand-ins while they are imported.

    Whoever else looks into it, or later, or for more than these names, gets the real thing.
    """

    importing = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        spec = importlib.util.find_spec(name)
        # A package, so that its modules are found where somebody imports one of them.
        self.__path__ = list((spec and spec.submodule_search_locations) or ())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.importing and name in _LATER:
            importer = str(sys._getframe(1).f_globals.get("__name__"))
            if importer.startswith(("sklearn.", "importlib.")):
                return _Later(name)
        return getattr(_real(), name)


class _Later:
    """A function or distribution of scipy.stats, imported when it is called or looked into."""

    def __init__(self, name: str) -> None:
        self.__name = name

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return getattr(_real(), self.__name)(*arguments, **more)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(getattr(_real(), self.__name), attribute)


def _real() -> Any:
    if isinstance(sys.modules.get(_STATS), _Stats):
        del sys.modules[_STATS]
    return importlib.import_module(_STATS)
