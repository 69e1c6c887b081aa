"""Which names a skops file may hold: our own allow-list, never the list that came with the model.

skops builds any class that a file names, and a class can do harm when it is made or later called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from typing import Any

_TRUSTED_PREFIXES = ("sklearn.", "scipy.sparse.", "scipy.special.", "scipy.interpolate.",
                     "scipy.spatial.", "scipy.stats.")  # fmt: skip
_NOT_TRUSTED_PREFIXES = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils._testing.",
                         "sklearn.utils._joblib.", "sklearn.tests.", "sklearn.conftest.")  # fmt: skip
_NUMPY_MODULES = {"numpy", "numpy.random", "numpy.random._pickle", "numpy.linalg", "numpy.ma"}
_NUMPY_FILES = {
    "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "save", "savez", "savez_compressed",
    "savetxt", "fromregex", "test", "f2py", "DataSource", "ctypeslib", "fromfunction", "frompyfunc",
    "vectorize", "apply_along_axis", "apply_over_axes", "piecewise",
}  # fmt: skip
_BOOSTERS = {
    "collections.OrderedDict", "collections.defaultdict",
    "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor",
    "lightgbm.sklearn.LGBMRanker", "xgboost.core.Booster", "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor", "xgboost.sklearn.XGBRanker",
}  # fmt: skip
"""Their states are text and numbers which their own parsers read."""


def allowed(name: str) -> bool:
    """Whether the allow-list holds a type's or function's full name.

    Allowed are scikit-learn (not its data sets, tests and vendored parts, which open files and
    addresses), the sparse, special, interpolate, spatial and stats parts of SciPy, NumPy's own
    names but those that open files or call what they are given, and the boosters' estimators.
    """
    if name in _BOOSTERS:
        return True
    if name.startswith("numpy."):
        module, _, last = name.rpartition(".")
        return module in _NUMPY_MODULES and last not in _NUMPY_FILES
    if name.startswith(_NOT_TRUSTED_PREFIXES) or ".tests." in name:
        return False
    return name.startswith(_TRUSTED_PREFIXES)


_importing = threading.Lock()
_own: list[Any] = []


def skops_io() -> Any:
    """A copy of skops.io of our own, made without the second in which it lists all that it trusts.

    At its import skops loads all of scikit-learn to name its estimators, and searches every loaded
    module for each of 320 functions of NumPy and SciPy. Our own list decides instead, so in our
    copy those lists are empty (it then trusts less by itself, never more). Whoever else imports
    skops in this process gets it whole. Raises ImportError.
    """
    with _importing:
        if not _own:
            _own.append(_import_quickly())
        return _own[0]


def _import_quickly() -> Any:
    sklearn_utils: Any = importlib.import_module("sklearn.utils")
    spec = importlib.util.find_spec("skops.io")
    if spec is None or spec.loader is None:
        raise ImportError("skops has no module io")
    theirs = {name: module for name, module in sys.modules.items() if _of_skops(name)}
    for name in theirs:
        del sys.modules[name]
    estimators = sklearn_utils.all_estimators
    # One internal type is looked up in here and, where it is absent, left out of a list.
    unneeded = "sklearn.ensemble._hist_gradient_boosting.binning"
    absent = unneeded not in sys.modules
    # The package stands there, not yet run, while its module _utils is loaded and changed.
    package = sys.modules["skops.io"] = importlib.util.module_from_spec(spec)
    try:
        helpers: Any = importlib.import_module("skops.io._utils")
        helpers.get_public_type_names = lambda *_args, **_kwargs: []
        sklearn_utils.all_estimators = lambda *_args, **_kwargs: []
        if absent:
            sys.modules[unneeded] = None  # type: ignore[assignment]
        spec.loader.exec_module(package)
    finally:
        sklearn_utils.all_estimators = estimators
        if absent:
            sys.modules.pop(unneeded, None)
        for name in [name for name in sys.modules if _of_skops(name)]:
            del sys.modules[name]
        sys.modules.update(theirs)
    return package


def _of_skops(name: str) -> bool:
    return name == "skops.io" or name.startswith("skops.io.")
