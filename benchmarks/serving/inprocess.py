"""The model called in its process, without a server: inprocess.py CASE.json.

For each line on standard input (seconds) it calls the model on single rows for so long and prints
one line of JSON: percentiles of a call in ms. The input is made beforehand: an array of one row, or
a frame of one row where the model takes frames.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any


def predictor(case: dict[str, Any]) -> tuple[Callable[[Any], Any], list[Any]]:
    """The library's own function, and inputs of one row."""
    import numpy as np

    native = Path(case["native"])
    rows = case["rows"]
    if native.suffix == ".lgb":
        import lightgbm

        booster = lightgbm.Booster(model_file=str(native))
        return lambda row: booster.predict(row, num_threads=1), [np.array([row]) for row in rows]
    if native.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(native), options)
        inputs = [np.array([row], dtype=np.float32) for row in rows]
        return lambda row: session.run(["probabilities"], {"input": row}), inputs
    import joblib

    loaded = joblib.load(native)
    if isinstance(loaded, tuple):
        model, asked = loaded
        return model.predict_proba, [asked.iloc[i : i + 1] for i in range(len(asked))]
    return loaded.predict_proba, [np.array([row]) for row in rows]


def measure(call: Callable[[Any], Any], inputs: list[Any], seconds: float) -> dict[str, float]:
    """Percentiles of a call in ms."""
    taken, clock = array("q"), time.perf_counter_ns
    until, number = clock() + int(seconds * 1e9), 0
    while clock() < until:
        row = inputs[number % len(inputs)]
        began = clock()
        call(row)
        taken.append(clock() - began)
        number += 1
    ordered = sorted(taken)
    return {
        "p50_ms": ordered[len(ordered) // 2] / 1e6,
        "p99_ms": ordered[int(len(ordered) * 0.99)] / 1e6,
        "mean_ms": sum(ordered) / len(ordered) / 1e6,
        "calls": len(ordered),
    }


def main() -> None:
    """Answer until standard input ends."""
    call, inputs = predictor(json.loads(Path(sys.argv[1]).read_text()))
    measure(call, inputs, 0.2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(call, inputs, float(line))), flush=True)


if __name__ == "__main__":
    main()
