"""Model directories, made once, and servers of them that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.deploy import models
from tests.operate.serving import Served

COLUMNS = ["carrier", "day", "distance", "temp", "rain"]
SAFE = [
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.compose._column_transformer._RemainderColsList",
]


def frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "carrier": random.choice(["UA", "AA", "B6"], rows),
            "day": random.integers(0, 7, rows).astype("int32"),
            "distance": random.integers(100, 3000, rows),
            "temp": np.where(random.random(rows) < 0.2, np.nan, random.normal(50, 20, rows)),
            "rain": random.random(rows) < 0.3,
        }
    )


@pytest.fixture(scope="session")
def sklearn_model() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from sklearn.tree import DecisionTreeClassifier

    rows = frame()
    encode = ColumnTransformer(
        [
            (
                "texts",
                OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
                ["carrier"],
            ),
            ("numbers", "passthrough", COLUMNS[1:]),
        ]
    )
    trees = DecisionTreeClassifier(max_depth=4, random_state=0)  # no OpenMP: quick beside others
    target = (rows.distance > 1500).astype("int8") ^ (rows.day > 3)
    return Pipeline([("encode", encode), ("trees", trees)]).fit(rows, target)


@pytest.fixture(scope="session")
def sklearn_folder(sklearn_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    folder = tmp_path_factory.mktemp("models") / "sklearn"
    kinds = ["string", "integer", "long", "double", "boolean"]
    signature = ModelSignature(
        inputs=Schema([ColSpec(k, n) for k, n in zip(kinds, COLUMNS, strict=True)]),
        outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 2))]),
    )
    mlflow.sklearn.save_model(
        sklearn_model,
        folder,
        signature=signature,
        input_example=frame(3),
        serialization_format="skops",
        skops_trusted_types=SAFE,
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
    )
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models.several(tmp_path_factory.mktemp("models"))


@pytest.fixture
def serve(folders: dict[str, Path]) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def go(*arguments: str, model: str = "one", **environ: str) -> Served:
        started.append(Served(str(folders[model]), *arguments, **environ))
        return started[-1]

    yield go
    for served in started:
        if served.process.poll() is None:
            served.end()
        served._reader.join()
