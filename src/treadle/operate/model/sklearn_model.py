"""scikit-learn estimators: loaded without pickle, called without a frame where that is the same.

An estimator that was fitted on a frame keeps its names (`feature_names_in_`) and compares them on
each call; given a matrix, it warns. If all columns are numbers, in the order that it was fitted on,
and it is built of classes that do nothing with a frame but turn it into a matrix (`_PLAIN`, each of
them held to that by a test), then a copy of it without the names is called with the matrix: a third
of the time, no pandas. The copy shares everything else with the original, which takes the frames.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base import trust
from treadle.base.errors import MissingExtra, UsageError
from treadle.operate.model import histogram, lean, sklearn_columns
from treadle.operate.model import signature as signatures
from treadle.operate.model.engine import Call, Engine, common_type
from treadle.operate.model.signature import Signature
from treadle.operate.model.trusted import require_trust

FUNCTIONS = {"predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba"}

_PLAIN = frozenset(
    [
        "StandardScaler",
        "MinMaxScaler",
        "MaxAbsScaler",
        "RobustScaler",
        "Normalizer",
        "Binarizer",
        "PowerTransformer",
        "QuantileTransformer",
        "PolynomialFeatures",
        "SplineTransformer",
        "KBinsDiscretizer",
        "PCA",
        "IncrementalPCA",
        "TruncatedSVD",
        "FastICA",
        "NMF",
        "SimpleImputer",
        "KNNImputer",
        "VarianceThreshold",
        "SelectKBest",
        "SelectPercentile",
        "Nystroem",
        "RBFSampler",
        "LinearDiscriminantAnalysis",
        "QuadraticDiscriminantAnalysis",
        "LinearRegression",
        "Ridge",
        "RidgeCV",
        "RidgeClassifier",
        "RidgeClassifierCV",
        "Lasso",
        "LassoCV",
        "ElasticNet",
        "ElasticNetCV",
        "Lars",
        "LassoLars",
        "BayesianRidge",
        "ARDRegression",
        "HuberRegressor",
        "TheilSenRegressor",
        "LogisticRegression",
        "LogisticRegressionCV",
        "SGDClassifier",
        "SGDRegressor",
        "Perceptron",
        "PassiveAggressiveClassifier",
        "PassiveAggressiveRegressor",
        "PoissonRegressor",
        "GammaRegressor",
        "TweedieRegressor",
        "QuantileRegressor",
        "LinearSVC",
        "LinearSVR",
        "SVC",
        "SVR",
        "NuSVC",
        "NuSVR",
        "KNeighborsClassifier",
        "KNeighborsRegressor",
        "NearestCentroid",
        "GaussianNB",
        "BernoulliNB",
        "MultinomialNB",
        "ComplementNB",
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
        "ExtraTreeClassifier",
        "ExtraTreeRegressor",
        "RandomForestClassifier",
        "RandomForestRegressor",
        "ExtraTreesClassifier",
        "ExtraTreesRegressor",
        "GradientBoostingClassifier",
        "GradientBoostingRegressor",
        "HistGradientBoostingClassifier",
        "HistGradientBoostingRegressor",
        "AdaBoostClassifier",
        "AdaBoostRegressor",
        "IsolationForest",
        "MLPClassifier",
        "MLPRegressor",
        "GaussianProcessClassifier",
        "GaussianProcessRegressor",
        "KernelRidge",
        "KMeans",
        "MiniBatchKMeans",
        "PLSRegression",
        "DummyClassifier",
        "DummyRegressor",
    ]
)
"""Public classes whose predict and transform see no more of a frame than its matrix."""
_AROUND = frozenset(
    [
        "BaggingClassifier",
        "BaggingRegressor",
        "CalibratedClassifierCV",
        "GridSearchCV",
        "MultiOutputClassifier",
        "MultiOutputRegressor",
        "OneVsOneClassifier",
        "OneVsRestClassifier",
        "RandomizedSearchCV",
        "StackingClassifier",
        "StackingRegressor",
        "TransformedTargetRegressor",
        "VotingClassifier",
        "VotingRegressor",
    ]
)
"""Those that hand what they are given to estimators inside them, which must be plain as well."""


_NEVER_GIVEN_ONE = frozenset(
    [
        "IsotonicRegression",
        "LabelBinarizer",
        "LabelEncoder",
        "Pipeline",
        "_SigmoidCalibration",
        "_TemperatureScaling",
    ]
)
"""What else lies inside those: what works on labels and scores, or was not fitted on names."""


def load(
    folder: Path, conf: Mapping[str, Any], function: str, trust_pickle: bool, signature: Signature
) -> Engine:
    """The estimator of an MLflow directory of scikit-learn's flavor; `conf` is its section."""
    path = folder / str(conf["pickled_model"])
    return engine(
        load_file(path, conf.get("serialization_format"), trust_pickle), function, signature
    )


def engine(estimator: Any, function: str, signature: Signature) -> Engine:
    """An estimator's function, with a matrix instead of a frame where that is the same."""
    if function not in FUNCTIONS or not hasattr(estimator, function):
        raise UsageError(f"predict_fn {function}: {type(estimator).__name__} has none")
    bound: Any = getattr(estimator, function)
    matrix = common_type(signature)
    quick = nameless(estimator, signature.features) if matrix is not None else None
    if quick is not None:
        return Engine(estimator, _either(bound, in_steps(quick, function)), matrix)
    planned = sklearn_columns.plan(estimator, function, signature)
    if planned is not None:
        return Engine(estimator, _columns_or_frame(bound, planned, signature), columns=True)
    if not signature.tensors:
        return Engine(estimator, lambda data, _params: bound(data))
    quick = in_steps(estimator, function)
    return Engine(estimator, lambda data, _params: quick(data))


def _columns_or_frame(bound: Any, planned: Any, signature: Signature) -> Call:
    names = frozenset(signature.features)

    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        if type(data) is dict and data.keys() == names:
            return planned(data)
        if isinstance(data, Mapping):  # an optional column is absent: the estimator's to judge
            data = signatures.frame(data, signature)
        return bound(data)

    return call


def _either(bound: Any, quick: Any) -> Call:
    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        if type(data) is np.ndarray:
            # A frame's matrix lies column by column; another order rounds otherwise in the last digit.
            return quick(np.asfortranarray(data))
        return bound(data)

    return call


def nameless(estimator: Any, features: Sequence[str]) -> Any:
    """The estimator without its names, which takes the matrix of these features; None: it cannot."""
    if not _plain(estimator, tuple(features)):
        return None
    return stripped(estimator)


def _plain(value: Any, features: tuple[str, ...]) -> bool:
    kind = type(value)
    if not kind.__module__.startswith("sklearn.") or gives_frames(value):
        return False
    if kind.__name__ == "Pipeline":
        steps = [step for _, step in value.steps if step not in (None, "passthrough")]
        # Only the first step is given the frame, those behind it get what it gives: a matrix.
        return bool(steps) and _plain(steps[0], features) and not any(map(gives_frames, steps))
    if kind.__name__ in _AROUND:
        if not all(_plain_inside(inner, features) for inner in _inside(value).values()):
            return False
    elif kind.__name__ not in _PLAIN or getattr(value, "_preprocessor", None) is not None:
        return False  # gradient boosting with categories has a preprocessor, which looks at names
    names = getattr(value, "feature_names_in_", None)
    if names is None:
        return getattr(value, "n_features_in_", len(features)) == len(features)
    return tuple(map(str, names)) == features


def _inside(value: Any) -> dict[str, Any]:
    """What lies in an estimator and may be given the frame (not what transforms the target)."""
    return {name: inner for name, inner in vars(value).items() if name != "transformer_"}


def _plain_inside(value: Any, features: tuple[str, ...]) -> bool:
    if isinstance(value, list | tuple | dict):
        inner = value.values() if isinstance(value, dict) else value
        return all(_plain_inside(each, features) for each in inner)
    if type(value).__name__ == "_CalibratedClassifier":
        return all(_plain_inside(each, features) for each in vars(value).values())
    if not hasattr(value, "get_params") or isinstance(value, type):
        return True
    if getattr(value, "feature_names_in_", None) is not None:
        return _plain(value, features)
    # Not fitted at all, or on a matrix: that is what it is given now, with a frame outside or not.
    name = type(value).__name__
    ours = type(value).__module__.startswith("sklearn.")
    return ours and (name in _PLAIN or name in _AROUND or name in _NEVER_GIVEN_ONE)


def gives_frames(value: Any) -> bool:
    """Whether `set_output` makes its transform give a frame."""
    config = getattr(value, "_sklearn_output_config", None) or {}
    if config.get("transform") not in (None, "default"):
        return True
    config_of = sys.modules["sklearn"].get_config
    return bool(config_of().get("transform_output", "default") != "default")


def stripped(estimator: Any) -> Any:
    """A shallow copy that does not know the names it was fitted on, nor does its first step."""
    copy: Any = object.__new__(type(estimator))
    copy.__dict__.update(estimator.__dict__)
    if type(estimator).__name__ == "Pipeline":
        copy.steps = list(estimator.steps)
        first = next(i for i, (_, s) in enumerate(copy.steps) if s not in (None, "passthrough"))
        name, step = copy.steps[first]
        copy.steps[first] = (name, stripped(step))
    elif type(estimator).__name__ in _AROUND:
        inner = {name: _stripped_inside(value) for name, value in _inside(estimator).items()}
        copy.__dict__.update(inner)
    copy.__dict__.pop("feature_names_in_", None)
    return copy


def _stripped_inside(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_stripped_inside(each) for each in value)
    if isinstance(value, dict) and type(value).__name__ in ("dict", "Bunch"):
        return type(value)(**{name: _stripped_inside(each) for name, each in value.items()})
    if type(value).__name__ == "_CalibratedClassifier":
        copy: Any = object.__new__(type(value))
        copy.__dict__.update({n: _stripped_inside(each) for n, each in vars(value).items()})
        return copy
    if hasattr(value, "get_params") and getattr(value, "feature_names_in_", None) is not None:
        return stripped(value)
    return value


def in_steps(estimator: Any, function: str) -> Any:
    """A fitted estimator's function; of a Pipeline, its steps one after the other.

    That is what Pipeline itself does, after it has looked whether each of them is fitted.
    """
    kind = type(estimator)
    # Others of that name skip steps (imbalanced-learn's its samplers).
    if (kind.__module__, kind.__name__) != ("sklearn.pipeline", "Pipeline") or routed():
        return getattr(histogram.direct(estimator), function)
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    transforms = [step.transform for step in steps[:-1]]
    last = in_steps(steps[-1], function)

    def call(data: Any) -> Any:
        for transform in transforms:
            data = transform(data)
        return last(data)

    return call


def routed() -> bool:
    """Whether metadata routing is on, which Pipeline does for its steps."""
    return bool(sys.modules["sklearn"].get_config().get("enable_metadata_routing"))


# ---- files ---------------------------------------------------------------------------------------


def load_file(path: Path, form: str | None, trust_pickle: bool) -> Any:
    """An estimator from a skops file, or with trust from a pickle."""
    if form == "skops" or path.suffix == ".skops":
        with lean.imports():
            return _skops_load(path, trust_pickle)
    return _unpickle(path, form or "pickle", trust_pickle)


def _skops_load(path: Path, trust_pickle: bool) -> Any:
    try:
        skops_io = trust.skops_io()
    except ImportError:
        raise MissingExtra("skops", "sklearn", "a scikit-learn model") from None
    types = skops_io.get_untrusted_types(file=path)
    refused = [name for name in types if not trust.allowed(name)]
    if refused:
        require_trust(
            trust_pickle, f"the model holds types off the allow-list: {', '.join(refused)}"
        )
    return skops_io.load(path, trusted=types)


def _unpickle(path: Path, form: str, trust_pickle: bool) -> Any:
    require_trust(trust_pickle, f"{path.name} is a pickle")
    if form == "joblib" or path.suffix == ".joblib":
        import joblib

        return joblib.load(path)
    import pickle

    with path.open("rb") as file:
        return pickle.load(file)
