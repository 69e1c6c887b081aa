"""KServe's clients: REST (V1 and V2) and gRPC: what they see of a server, as JSON."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

sys.path.insert(0, str(Path(__file__).parents[1]))
from exchange import answer, packed, unpacked

port, model, address = 0, "demo", ""
KINDS = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL", "text": "BYTES",
    **{f"{u}int{n}": f"{u}int{n}".upper() for u in ("", "u") for n in (8, 16, 32, 64)},
}  # fmt: skip


def request(inputs: dict[str, Any], outputs: Any = None, binary: bool = True, **more: Any) -> Any:
    made = []
    for name, array in inputs.items():
        value = unpacked(array)
        made.append(InferInput(name, list(value.shape), KINDS[array["dtype"]]))
        if not binary and array["dtype"] == "text":
            made[-1].data = array["values"]
        else:
            made[-1].set_data_from_numpy(value, binary_data=binary)
    wanted = None if outputs is None else [RequestedOutput(name) for name in outputs]
    return InferRequest(model_name=model, infer_inputs=made, request_outputs=wanted, **more)


def seen(response: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": response.model_name, "version": response.model_version, "id": response.id,
        "outputs": {item.name: packed(item.as_numpy()) for item in response.outputs},
        "order": [item.name for item in response.outputs],
        **more,
    }  # fmt: skip


async def rest(protocol: str, step: dict[str, Any]) -> Any:
    client = InferenceRESTClient(RESTConfig(protocol=protocol))
    do = step.pop("do")
    try:
        if do == "health":
            told = {"model": await client.is_model_ready(address, model)}
            if protocol == "v2":
                told["ready"] = await client.is_server_ready(address)
            told["live"] = await client.is_server_live(address)
            return told
        headers: dict[str, str] = {}
        if protocol == "v1":
            told = await client.infer(address, step["body"], model, response_headers=headers)
            return {"answer": told, "headers": headers}
        told = await client.infer(address, request(**step), model, response_headers=headers)
        return seen(told, headers=headers)
    except httpx.HTTPStatusError as error:
        return {"status": error.response.status_code, "message": str(error),
                "body": error.response.json()}  # fmt: skip
    finally:
        await client.close()


async def over_grpc(step: dict[str, Any]) -> Any:
    async with InferenceGRPCClient(f"127.0.0.1:{port}", retries=0) as client:
        try:
            if step.pop("do") == "health":
                return {"live": await client.is_server_live(), "ready": await client.is_server_ready(),
                        "model": await client.is_model_ready(model)}  # fmt: skip
            response = await client.infer(request(**step))
            told = {k: v.string_param for k, v in (response.parameters or {}).items()}
            return seen(response, parameters=told)
        except grpc.RpcError as error:
            return {"status": error.code().name, "message": error.details()}


async def everything(given: dict[str, Any]) -> list[Any]:
    protocol = given["over"]
    return [
        await (over_grpc(step) if protocol == "grpc" else rest(protocol, step))
        for step in given["steps"]
    ]


def work(given: dict[str, Any]) -> list[Any]:
    global port, address  # what the steps of one line share
    port = given["port"]
    address = f"http://127.0.0.1:{port}"
    return asyncio.run(everything(given))


answer(work)
