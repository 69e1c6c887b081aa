"""Our messages are those of the stubs that the clients ship: names, numbers and types."""

from __future__ import annotations

from typing import Any

import pytest
from tests.real_clients.conftest import Client

wire = pytest.importorskip("treadle.operate.wire", reason="pip install 'treadle[grpc]'")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "module", ["tritonclient.grpc.service_pb2", "kserve.protocol.grpc.grpc_predict_v2_pb2"]
)
def test_messages_are_those_of_the_stubs(client: Client, module: str) -> None:
    told: dict[str, Any] = client("stubs", name=module, module=module)
    theirs, ours = told["messages"], wire.MESSAGES
    assert told["package"] == wire.PACKAGE
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 17
    for name in shared:
        for field, (number, kind) in theirs[name].items():
            assert ours[name][field] == (number, kind), f"{name}.{field}"
        # KServe's parameters lack two kinds that Triton's have.
        more = ours[name].keys() - theirs[name].keys()
        assert more <= {"double_param", "uint64_param"}, name
    if module.startswith("tritonclient"):
        assert shared == ours.keys()
    for name, (asked, answered) in told["methods"].items():
        if f"{name}Request" in ours:
            assert (asked, answered) == (f".inference.{name}Request", f".inference.{name}Response")
