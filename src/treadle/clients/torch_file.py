"""PyTorch modules as exported programs with canonical bytes: the same fitted module, the same file.

`torch.export` writes the function that the module computes (a graph of ATen operators) and its
weights as raw numbers: no class of the project is needed to load it, and nothing is unpickled
(see `base/pt2`). One tensor goes in, a row for each case and a column for each feature; one comes
out, `[rows]` or `[rows, k]`. A last dimension of one is taken off: `Linear(8, 1)` gives `[rows]`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any

from treadle.base import pt2
from treadle.base.errors import MissingExtra, PipelineError

_ROWS = 3
"""Rows of the traced example: torch takes 0 and 1 for constants."""


def is_torch(value: object) -> bool:
    """Whether it is a module or an exported program; torch is not imported to find out."""
    kinds = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(value).__mro__}
    return bool(
        kinds & {"torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram"}
    )


def dumps(model: Any, width: int | None = None) -> pt2.Program:
    """The exported program of a module or of a program, with canonical bytes.

    `width` is the number of features; without it, it is the module's `example_input_array`
    (Lightning's word for it) or what its first layer takes. PipelineError where the module cannot
    be traced, or is no function of one matrix.
    """
    torch = library()
    program = getattr(model, "treadle_program", model)  # a module that `loads` gave
    if not hasattr(program, "graph_module"):
        program = _export(torch, model, width)
    tensors = (*program.state_dict.values(), *program.constants.values())
    away = {str(t.device) for t in tensors if isinstance(t, torch.Tensor)} - {"cpu"}
    if away:
        raise PipelineError(
            f"the exported program holds weights on {', '.join(sorted(away))}, where a server has none",
            hint="export module.cpu(), or return the module itself",
        )
    buffer = io.BytesIO()
    with _quietly():
        torch.export.save(program, buffer)
    found = pt2.read(buffer.getvalue())
    if found.outputs != 1 or len(found.shape) != 2 or found.shape[0] != -1:
        raise PipelineError(
            f"the exported program takes a tensor of shape {list(found.shape)} (-1: any length) and "
            f"gives {found.outputs} outputs",
            hint="export it with any number of rows, torch.export.export(module, (rows,), "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), and one tensor as its answer",
        )
    if found.dtype not in ("float32", "float64"):
        raise PipelineError(
            f"the exported program takes {found.dtype}, and features are floats",
            hint="let forward take float32 and convert what it needs otherwise",
        )
    # MLflow, told to unpickle nothing, wants sample inputs that torch's restricted reader takes.
    sample = io.BytesIO()
    zeros = torch.zeros((2, max(found.shape[1], 1)), dtype=getattr(torch, found.dtype))
    torch.save(((zeros,), {}), sample)
    return pt2.read(found.data, sample.getvalue())


def loads(data: bytes) -> Any:
    """The module of an exported program; `dumps` gives the same bytes for it again.

    Raises Refused where the bytes could run code.
    """
    torch = library()
    with _quietly():
        program = torch.export.load(io.BytesIO(pt2.read(data).data))
        module = program.module(check_guards=False)
    module.treadle_program = program
    return module


def library() -> Any:
    """PyTorch. MissingExtra where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch", "a PyTorch model") from error
    return torch


def _export(torch: Any, module: Any, width: int | None) -> Any:
    # The user's own module keeps its device, its mode and its gradients.
    module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    known = width if width is not None else _width(torch, module)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    example = torch.zeros((_ROWS, known), dtype=dtype)
    name = type(module).__qualname__
    try:
        with torch.no_grad(), _quietly():
            answer = module(example)
            if not isinstance(answer, torch.Tensor):
                raise PipelineError(
                    f"forward of {name} gives a {type(answer).__name__}, and a model gives one tensor",
                    hint="return one tensor: [rows], or [rows, classes]",
                )
            if answer.ndim == 2 and answer.shape[1] == 1:
                module = _flat(torch, module)
            return torch.export.export(
                module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except PipelineError:
        raise
    except Exception as error:
        told = str(error).strip().splitlines() or [""]
        raise PipelineError(
            f"{name} cannot be exported for {known} features: {type(error).__name__}: {told[0]}",
            hint="torch.export traces forward(x), x of shape [rows, features], for any number of "
            "rows: no branch on values, no loop over rows; or return your own "
            "torch.export.export(module, …) as the model",
        ) from error


def _flat(torch: Any, module: Any) -> Any:
    """The module with an answer of [rows] instead of [rows, 1]."""

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return self.module(x).squeeze(-1)

    return Flat().eval()


def _width(torch: Any, module: Any) -> int:
    """How many features a module takes, as it tells by itself."""
    example = getattr(module, "example_input_array", None)
    if isinstance(example, torch.Tensor) and example.ndim == 2:
        return int(example.shape[1])
    for layer in module.modules():
        for word in ("in_features", "num_features"):
            found = getattr(layer, word, None)
            if isinstance(found, int) and found > 0:
                return found
    raise PipelineError(
        f"{type(module).__qualname__} does not tell how many features it takes",
        hint="set `self.example_input_array = torch.zeros(1, FEATURES)` in its __init__, or return "
        "torch.export.export(module, …)",
    )


@contextlib.contextmanager
def _quietly() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
