"""NVIDIA's client, over HTTP or gRPC: what it sees of a server, as JSON."""

from __future__ import annotations

import asyncio
import importlib
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tritonclient.utils import InferenceServerException, np_to_triton_dtype

sys.path.insert(0, str(Path(__file__).parents[1]))
from exchange import answer, packed, unpacked

over, port, model = "", 0, "demo"
triton: Any = None
client: Any = None


def tensor(name: str, array: Any, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    if over == "http":
        made.set_data_from_numpy(array, binary_data=binary)
    else:
        made.set_data_from_numpy(array)
    return made


def output(name: str, binary: bool = True) -> Any:
    if over == "http":
        return triton.InferRequestedOutput(name, binary_data=binary)
    return triton.InferRequestedOutput(name)


def names(result: Any) -> list[str]:
    told = result.get_response()
    outputs = told["outputs"] if over == "http" else told.outputs
    return [item["name"] if over == "http" else item.name for item in outputs]


def seen(result: Any, **more: Any) -> dict[str, Any]:
    told = result.get_response()
    http = over == "http"
    return {
        "model": told["model_name"] if http else told.model_name,
        "version": told.get("model_version") if http else told.model_version,
        "id": told.get("id") if http else told.id,
        "outputs": {name: packed(result.as_numpy(name)) for name in names(result)},
        "order": names(result),
        **more,
    }


def health() -> Any:
    told = {
        "live": client.is_server_live(), "ready": client.is_server_ready(),
        "model": client.is_model_ready(model), "version": client.is_model_ready(model, "7"),
    }  # fmt: skip
    if over == "http":
        told["server"] = client.get_server_metadata()
        told["metadata"] = client.get_model_metadata(model)
        told["index"] = client.get_model_repository_index()
    else:
        told["server"] = client.get_server_metadata(as_json=True)
        told["metadata"] = client.get_model_metadata(model, as_json=True)
        told["index"] = client.get_model_repository_index(as_json=True)
    return told


def infer(inputs: dict[str, Any], outputs: Any = None, binary: bool = True, **more: Any) -> Any:
    sent = [tensor(name, unpacked(array), binary) for name, array in inputs.items()]
    wanted = None if outputs is None else [output(name, binary) for name in outputs]
    return seen(client.infer(model, sent, outputs=wanted, **more))


def raw(array: Any, length: int = 0) -> Any:
    """The bytes that the client makes of an array, as a body of their own; it reads the answer."""
    sent = [tensor("x", unpacked(array))]
    body, header = client.generate_request_body(sent)
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("POST", f"/v2/models/{model}/infer", body[header:],
                       {"Inference-Header-Content-Length": str(length)})  # fmt: skip
    told = connection.getresponse()
    answered = told.read()
    connection.close()
    if told.status != 200:
        return {"status": str(told.status), "message": answered.decode()}
    length = int(told.headers["Inference-Header-Content-Length"])
    return seen(client.parse_response_body(answered, header_length=length))


def refused(what: str, **arguments: Any) -> Any:
    try:
        {"infer": infer, "load": client.load_model, "unload": client.unload_model}[what](
            **arguments
        )
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


def many(inputs: list[Any], how_many_at_once: int, parameters: Any = None) -> Any:
    """Different requests at once: every one must get its own answer."""

    async def all_of_them() -> Any:
        aio = importlib.import_module(f"tritonclient.{over}.aio")
        turns = asyncio.Semaphore(how_many_at_once)
        async with aio.InferenceServerClient(f"127.0.0.1:{port}") as asynchronous:

            async def one(number: int, array: Any) -> Any:
                sent = [tensor("x", unpacked(array))]
                async with turns:
                    own = None if parameters is None else parameters[number]
                    result = await asynchronous.infer(
                        model, sent, request_id=f"n{number}", parameters=own
                    )
                return seen(result)

            return await asyncio.gather(*(one(n, array) for n, array in enumerate(inputs)))

    return asyncio.run(all_of_them())


def work(given: dict[str, Any]) -> list[Any]:
    global over, port, triton, client  # what the steps of one line share
    over, port = given["over"], given["port"]
    triton = importlib.import_module(f"tritonclient.{over}")
    trusted: dict[str, Any] = {}
    if "authority" in given:
        of_http = {"ssl": True, "ssl_options": {"ca_certs": given["authority"]}}
        of_grpc = {"ssl": True, "root_certificates": given["authority"]}
        trusted = of_http if over == "http" else of_grpc
    client = triton.InferenceServerClient(f"localhost:{port}", **trusted)
    does = {"health": health, "infer": infer, "refused": refused, "many": many, "raw": raw}
    try:
        return [does[step.pop("do")](**step) for step in given["steps"]]
    finally:
        client.close()


answer(work)
