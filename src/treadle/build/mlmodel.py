"""The files that make a directory an MLflow model, written without importing MLflow.

The forms are those of MLflow 3.17 (compared with its own output by a test). What differs from turn
to turn is left out or derived from the content: no time of creation, the uuid from the digest.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.build.features import Feature

MLFLOW_FORMAT = "3.17.2"
"""The MLflow release whose directory form is written; not the one that is installed, so that an
upgrade of MLflow does not make equal models differ."""
_MLFLOW_RANGE = "mlflow>=3.7,<4"


def mlmodel(
    *,
    flavors: Mapping[str, Mapping[str, Any]],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    content: str,
    size_bytes: int,
) -> str:
    """The text of `MLmodel`; `content` is the digest that the uuid is made of."""
    return yaml({
        "flavors": flavors,
        "is_signature_from_type_hint": False,
        "mlflow_version": MLFLOW_FORMAT,
        "model_size_bytes": size_bytes,
        "model_uuid": content.removeprefix("sha256:")[:32],
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        },
        "signature": {
            "inputs": json.dumps(list(inputs), ensure_ascii=False),
            "outputs": json.dumps(list(outputs), ensure_ascii=False),
            "params": None,
        },
        "type_hint_from_example": False,
    })  # fmt: skip


def python_function(loader: str, file_key: str, file: str, **more: Any) -> dict[str, Any]:
    """The flavor that `mlflow.pyfunc.load_model` reads."""
    return {
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "loader_module": loader,
        file_key: file,
        **more,
        "python_version": platform.python_version(),
    }


def columns(features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Named columns in MLflow's schema form."""
    return [{"type": f.type, "name": f.name, "required": f.required} for f in features]


def tensor(dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """An unnamed tensor in MLflow's schema form; -1 is any number of rows."""
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def environment(requirements: Sequence[str]) -> dict[str, str]:
    """`requirements.txt` (what the model needs) and MLflow's two environment files around it."""
    python = platform.python_version()
    return {
        "requirements.txt": "".join(f"{line}\n" for line in requirements),
        "python_env.yaml": yaml({
            "python": python,
            "build_dependencies": ["pip", "setuptools", "wheel"],
            # MLflow's own server needs MLflow; Treadle's does not, so it is not in requirements.
            "dependencies": ["-r requirements.txt", _MLFLOW_RANGE],
        }),
        "conda.yaml": yaml({
            "channels": ["conda-forge"],
            "dependencies": [
                f"python={python}", "pip", {"pip": [_MLFLOW_RANGE, *requirements]},
            ],
            "name": "mlflow-env",
        }),
    }  # fmt: skip


def yaml(value: Mapping[str, Any]) -> str:
    """Block YAML of nested mappings, lists and plain values; texts in JSON's quotes if need be."""
    return "".join(line + "\n" for line in _lines(value, 0))


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list | tuple) and item:
                lines += [f"{pad}{_scalar(key)}:", *_lines(item, depth + 1)]
            else:
                lines.append(f"{pad}{_scalar(key)}: {_scalar(item)}")
        return lines
    for item in value:
        if isinstance(item, Mapping):
            first, *rest = _lines(item, depth + 1)
            lines += [f"{pad}- {first.lstrip()}", *rest]
        else:
            lines.append(f"{pad}- {_scalar(item)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = value and value.replace("_", "a").replace(".", "a").replace("/", "a").isalnum()
        # Words that begin with a letter and are no word of YAML stand as they are.
        if plain and value[0].isalpha() and value.isascii() and value.lower() not in _WORDS:
            return value
        return _quoted(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A double-quoted YAML text; what does not print is escaped by its number."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)


_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
