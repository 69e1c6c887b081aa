"""Which names a skops file may hold: our own allow-list, never the list that came with the model.

skops builds any class that a file names, and a class can do harm when it is made or later called.
"""

from __future__ import annotations

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
