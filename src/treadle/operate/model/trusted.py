"""What can run code when it is loaded is loaded only where the project trusts it."""

from __future__ import annotations

from treadle.base.errors import Refused


def require_trust(trust_pickle: bool, what: str) -> None:
    """Refused, unless pickles are trusted; `what` says why trust is needed."""
    if not trust_pickle:
        raise Refused(
            f"{what}: loading it runs code that came with the model",
            hint="`trust: pickle` in treadle.yaml (serve: --trust-pickle) allows it; or save the "
            "model in a safe format: skops, XGBoost JSON, LightGBM text, ONNX",
        )
