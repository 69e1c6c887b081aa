"""The page for people: whole in itself, safe with any name, filled with the example."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any

import pytest

from treadle.operate.codec import mlflow, page
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature

EVIL = "</script><img src=x onerror=alert(1)>\"'&"
SIGNATURE = Signature(
    (Field("carrier", "string"), Field("id", "long"), Field(EVIL, "double", False),
     Field("rain", "boolean"), Field("at", "datetime"), Field("tags", "any"))
)  # fmt: skip
EXAMPLE = json.dumps({"dataframe_split": {
    "columns": list(SIGNATURE.features),
    "data": [[EVIL, 2**53 + 1, 0.5, True, "2020-01-01T00:00:00", ["x"]], ["n", 1, 1, False, "", []]],
}}).encode()  # fmt: skip


class Parsed(HTMLParser):
    """Elements with their attributes, and the texts of some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(signature: Signature = SIGNATURE, example: bytes | None = EXAMPLE) -> Parsed:
    return Parsed(page.html(signature, example, model="flights", version="3").decode())


def test_nothing_is_loaded_from_elsewhere_and_the_policy_names_what_runs() -> None:
    found = parsed()
    for tag, attributes in found.elements:
        assert not attributes.keys() & {"onclick", "onerror", "onload", "style"}, tag
        assert tag not in ("img", "iframe", "object", "base")
        if tag in ("script", "style"):
            assert not attributes
        for name in ("href", "src", "action"):
            value = attributes.get(name) or ""
            assert value in ("", "data:,") or value.startswith("/")
    assert len(found.all("script")) == 1 == len(found.all("style"))
    policy = page.HEADERS.decode()
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.texts[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert all(line.count(": ") >= 1 for line in policy.split("\r\n")[:-1])


def test_the_form_has_a_labelled_field_for_each_column_filled_with_the_example() -> None:
    found = parsed()
    fields = [a for tag, a in found.elements if "data-name" in a]
    assert [a["data-name"] for a in fields] == list(SIGNATURE.features)
    labels = {a.get("for") for a in found.all("label")}
    assert {a["id"] for a in fields} <= labels and "body" in labels
    values = {a["data-name"]: a.get("value") for a in fields}
    assert values["carrier"] == EVIL and values["id"] == str(2**53 + 1)
    assert values[EVIL] == "0.5" and values["tags"] == '["x"]'
    assert [a["value"] for a in found.all("option") if "selected" in a] == ["true"]


def test_the_request_in_the_box_is_one_that_the_codec_takes() -> None:
    for example in (EXAMPLE, None, b"{", b'{"inputs": [[1, 2]]}', b"x" * 30_000):
        body = parsed(example=example).texts["textarea"].encode()
        query = mlflow.Scoring(SIGNATURE, Limits()).decode(body, "application/json")
        assert query.rows == 1 and query.names == SIGNATURE.features
        if example is EXAMPLE:
            assert query.cells == [[EVIL, 2**53 + 1, 0.5, True, "2020-01-01T00:00:00", ["x"]]]


@pytest.mark.parametrize(
    ("signature", "example", "text"),
    [
        (
            Signature((Field("x", "tensor", True, "float64", (-1, 2)),)),
            b'{"inputs": [[1, 2]]}',
            "1",
        ),
        (Signature(), b'{"inputs": "secret \xff"}', "inputs"),
        (Signature(), None, "inputs"),
    ],
)
def test_a_model_without_columns_has_the_box_alone(
    signature: Signature, example: bytes | None, text: str
) -> None:
    found = parsed(signature, example)
    assert text in found.texts["textarea"] and json.loads(found.texts["textarea"])
    assert not any("data-name" in attributes for _, attributes in found.elements)


def test_the_page_links_to_what_it_should() -> None:
    links = {a["href"] for a in parsed().all("a")}
    assert links >= {"/openapi.json", "/metrics", "/v2/health/ready", "/v2/models/flights"}


def test_names_of_models_are_escaped() -> None:
    text = page.html(Signature(), None, model=EVIL, version=EVIL).decode()
    assert EVIL not in text and "<img" not in text


STUB = r"""
const stubs = JSON.parse(process.argv[2]).map(f => ({
  dataset: f.dataset, value: f.value, attributes: {}, listeners: {},
  setAttribute(name, value) { this.attributes[name] = value; },
  addEventListener(name, call) { this.listeners[name] = call; }}));
const nodes = {};
globalThis.document = {
  getElementById: id => nodes[id] ??= {value: "", listeners: {},
    addEventListener(name, call) { this.listeners[name] = call; }},
  querySelectorAll: () => stubs};
globalThis.location = {origin: "http://127.0.0.1:8080"};
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_script_writes_the_request_as_it_was_typed(tmp_path: Any) -> None:
    script = re.search(r"<script>(.*)</script>", page.html(
        SIGNATURE, None, model="m", version="1").decode(), re.DOTALL)  # fmt: skip
    assert script is not None
    typed = [
        ({"name": "a", "kind": "text"}, "it's \"ü\"\n"), ({"name": "b", "kind": "number"}, "9007199254740993"),
        ({"name": "c", "kind": "number"}, "1,5"), ({"name": "d", "kind": "flag"}, "true"),
        ({"name": "e", "kind": "json"}, "[1, 9007199254740993]"), ({"name": "f", "kind": "text"}, ""),
        ({"name": "g", "kind": "text", "empty": "yes"}, ""), ({"name": "h", "kind": "flag"}, ""),
    ]  # fmt: skip
    fields = json.dumps([{"dataset": dataset, "value": value} for dataset, value in typed])
    end = """
stubs[0].listeners.input({target: stubs[0]});
console.log(JSON.stringify([nodes.body.value, nodes.curl.textContent, stubs.map(f => f.attributes)]));
"""
    file = tmp_path / "page.js"
    file.write_text(STUB + script[1].replace('"use strict";', "") + end)
    done = subprocess.run(
        ["node", file, fields], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body, curl, attributes = json.loads(done.stdout)
    query = mlflow.Scoring(Signature(), Limits()).decode(body.encode(), "application/json")
    assert query.names == tuple("abcdefgh")
    assert query.cells == [['it\'s "ü"\n', 2**53 + 1, "1,5", True, [1, 2**53 + 1], None, "", None]]
    assert [a["aria-invalid"] for a in attributes] == ["false"] * 2 + ["true"] + ["false"] * 5
    shell = subprocess.run(
        ["/bin/sh", "-c", "curl() { for last; do :; done; printf %s \"$last\"; }\n" + curl],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert shell.stdout == body and "http://127.0.0.1:8080/invocations" in curl
