"""PyTorch in tests: skipped with the command that installs it, and exported programs by hand."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import zipfile
from typing import Any

import pytest

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed: pip install 'treadle[torch]'",
)


def records() -> dict[str, Any]:
    """The records of `x @ weight.T` for two features, as torch.export.save writes them."""

    def tensor(*sizes: Any) -> dict[str, Any]:
        strides = [{"as_int": 1}] if len(sizes) == 1 else [sizes[1], {"as_int": 1}]
        return {
            "dtype": 7, "sizes": list(sizes), "requires_grad": False,
            "device": {"type": "cpu", "index": None}, "strides": strides,
            "storage_offset": {"as_int": 0}, "layout": 7,
        }  # fmt: skip

    one, two = {"as_int": 1}, {"as_int": 2}
    hint = {"as_int": 3}
    rows = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": hint}}
    leaf = '{"type": null, "context": null, "children_spec": []}'
    inside = (
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": '
        '"builtins.tuple", "context": "null", "children_spec": [' + leaf + ']}, {"type": '
        '"builtins.dict", "context": "[]", "children_spec": []}]}]'
    )
    named = lambda name: {"as_tensor": {"name": name}}  # noqa: E731
    graph = {
        "graph_module": {
            "graph": {
                "inputs": [named("p_weight"), named("x")],
                "outputs": [named("linear")],
                "nodes": [
                    {
                        "target": "torch.ops.aten.linear.default",
                        "inputs": [
                            {"name": "input", "arg": named("x"), "kind": 1},
                            {"name": "weight", "arg": named("p_weight"), "kind": 1},
                        ],
                        "outputs": [named("linear")],
                        "metadata": {"stack_trace": 'File "/home/somebody/pipeline.py", line 7'},
                        "is_hop_single_tensor_return": None,
                        "name": "linear",
                    }
                ],
                "tensor_values": {
                    "x": tensor(rows, two), "p_weight": tensor(one, two),
                    "linear": tensor(rows, one),
                },
                "sym_int_values": {}, "sym_bool_values": {}, "is_single_tensor_return": False,
                "custom_obj_values": {}, "sym_float_values": {},
            },
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "p_weight"}, "parameter_name": "weight"}},
                    {"user_input": {"arg": named("x")}},
                ],
                "output_specs": [{"user_output": {"arg": named("linear")}}],
            },
            "module_call_graph": [
                {
                    "fqn": "",
                    "signature": {
                        "inputs": [], "outputs": [], "in_spec": inside,
                        "out_spec": f"[1, {leaf}]", "forward_arg_names": ["x"],
                    },
                }
            ],
            "metadata": {}, "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10}, "range_constraints": {"s77": {"min_val": 2, "max_val": None}},
        "schema_version": {"major": 8, "minor": 20}, "verifiers": ["TRAINING"],
        "torch_version": "2.13.0", "guards_code": ["L['x'].size()[1] == 2"],
    }  # fmt: skip
    weight = {
        "path_name": "weight_0", "is_param": True, "use_pickle": False,
        "tensor_meta": tensor(one, two),
    }  # fmt: skip
    return {
        "data/weights/weight_0": struct.pack("<2f", 2.0, -1.0),
        "data/weights/model_weights_config.json": {"config": {"weight": weight}},
        "data/constants/model_constants_config.json": {"config": {}},
        "models/model.json": graph,
        "data/sample_inputs/model.pt": b"a pickle",
        "archive_format": b"pt2", "archive_version": b"0", ".data/version": b"6\n",
        "byteorder": b"little", ".data/serialization_id": b"0597139741032085524710551973795613003499",
    }  # fmt: skip


def archive(
    parts: dict[str, Any], *, top: str = "model", compression: int = zipfile.ZIP_STORED
) -> bytes:
    """The archive of these records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, value in parts.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            file.writestr(f"{top}/{name}", data)
    return buffer.getvalue()
