"""The page at `/` on which a person tries the model: one document, nothing loaded from elsewhere.

The form is made from the signature and filled with the input example. What is sent is the text in
the box, which the form writes and a person may change; numbers are put into it as they were typed,
so that a long integer keeps its digits. Style and script are constant, so that the policy in
`HEADERS` can name them by digest and the browser runs nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any

import msgspec

from treadle.operate.codec import json, mlflow
from treadle.operate.codec.mlflow import WrongType
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Query

_LARGEST_EXAMPLE = 20_000
_NUMBERS = {"integer", "long", "float", "double"}
_WORDS = {
    "integer": "integer, 32 bit", "long": "integer, 64 bit", "float": "number, 32 bit",
    "double": "number", "string": "text", "boolean": "yes or no", "binary": "base64",
    "datetime": "ISO 8601 time", "any": "JSON",
}  # fmt: skip

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6577;--line:#ccd3de;--field:#fff;
--back:#f5f7fa;--accent:#1a56c4;--on:#fff;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf1;--soft:#a3adbd;--line:#3a4352;--field:#1a202b;
--back:#11151c;--accent:#8ab4ff;--on:#0b1220;--bad:#ff9d94}}
*{box-sizing:border-box}[hidden]{display:none}
body{margin:0 auto;padding:2rem 1rem 4rem;max-width:56rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{margin:0;font-size:1.6rem;overflow-wrap:anywhere}h2{margin:2rem 0 .5rem;font-size:1.1rem}
p{margin:.25rem 0 1rem;color:var(--soft)}a{color:var(--accent)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.75rem 1rem}
label{display:block;font-weight:600;overflow-wrap:anywhere}
label small{font-weight:400;color:var(--soft)}
input,select,textarea{width:100%;padding:.45rem .6rem;border:1px solid var(--line);
border-radius:.35rem;background:var(--field);color:inherit;font:inherit}
textarea,pre{font:14px/1.45 ui-monospace,monospace}
textarea{min-height:9rem;resize:vertical}
pre{margin:0;padding:.75rem;border:1px solid var(--line);border-radius:.35rem;
background:var(--field);white-space:pre-wrap;overflow-wrap:anywhere;max-height:24rem;overflow:auto}
button{padding:.5rem 1.1rem;border:1px solid var(--accent);border-radius:.35rem;
background:var(--accent);color:var(--on);font:inherit;font-weight:600;cursor:pointer}
button.second{background:none;color:var(--accent)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.row{display:flex;flex-wrap:wrap;gap:.75rem;align-items:center;margin:1rem 0}
[aria-invalid=true]{border-color:var(--bad)}
.bad{color:var(--bad)}dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem 1rem;margin:.75rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
"""
_SCRIPT = r"""
"use strict";
const at = id => document.getElementById(id);
const body = at("body"), fields = [...document.querySelectorAll("[data-name]")];
const number = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
function json(field) {
  const text = field.value, kind = field.dataset.kind;
  let good = true, value = "null";
  if (text !== "" || (kind === "text" && field.dataset.touched === undefined && field.dataset.empty)) {
    if (kind === "number") { good = number.test(text.trim()); value = text.trim(); }
    else if (kind === "json") { try { JSON.parse(text); value = text; } catch { good = false; } }
    else if (kind === "flag") value = text;
    else value = JSON.stringify(text);
  }
  field.setAttribute("aria-invalid", String(!good));
  // What is wrong is sent as it was typed, so that the server refuses it in words: never as missing.
  return good ? value : kind === "json" ? text : JSON.stringify(text);
}
function write() {
  const names = fields.map(field => JSON.stringify(field.dataset.name)).join(", ");
  body.value = '{"dataframe_split": {\n  "columns": [' + names + '],\n  "data": [['
    + fields.map(json).join(", ") + "]]\n}}";
  show();
}
function show() {
  const quoted = "'" + body.value.replaceAll("'", "'\\''") + "'";
  at("curl").textContent = "curl -sS " + location.origin
    + "/invocations \\\n  -H 'Content-Type: application/json' \\\n  -d " + quoted;
}
const touch = event => { event.target.dataset.touched = ""; write(); };
// Some tools that fill in forms for people fire `change` alone.
for (const field of fields) for (const kind of ["input", "change"]) field.addEventListener(kind, touch);
body.addEventListener("input", show);
at("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(at("curl").textContent); at("copied").textContent = "Copied."; }
  catch { getSelection().selectAllChildren(at("curl")); at("copied").textContent = "Selected: press Ctrl+C."; }
});
at("form").addEventListener("submit", async event => {
  event.preventDefault();
  const status = at("status"), answer = at("answer"), begun = performance.now();
  at("send").disabled = true;
  status.textContent = "Waiting…"; status.className = ""; answer.textContent = ""; at("ids").hidden = true;
  try {
    const reply = await fetch("/invocations", {
      method: "POST", headers: {"content-type": "application/json"}, body: body.value});
    const text = await reply.text();
    status.textContent = reply.status + " " + (reply.ok ? "OK" : "not predicted") + ", "
      + (performance.now() - begun).toFixed(1) + " ms";
    status.className = reply.ok ? "" : "bad";
    answer.textContent = text;
    at("prediction").textContent = reply.headers.get("x-prediction-id") ?? "none";
    at("request").textContent = reply.headers.get("x-request-id") ?? "none";
    at("ids").hidden = false;
  } catch { status.textContent = "The server did not answer."; status.className = "bad"; }
  at("send").disabled = false;
});
show();
"""


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS = (
    f"content-security-policy: default-src 'none'; style-src {_digest(_STYLE)}; "
    f"script-src {_digest(_SCRIPT)}; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'\r\n"
    "x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\ncache-control: no-store\r\n"
).encode()
"""Header lines that go with the page."""


def html(signature: Signature, example: bytes | None, *, model: str, version: str) -> bytes:
    """The page. `example`: a body for `/invocations`, the model's input example."""
    if example is not None and len(example) > _LARGEST_EXAMPLE:
        example = None
    query = _query(signature, example)
    values = _first_row(signature, query) if query is not None else {}
    columns = () if signature.tensors else signature.inputs
    fields = "".join(_field(number, f, values.get(f.name)) for number, f in enumerate(columns))
    if columns:
        text = _split(columns, values)
        form = f'<h2>Input</h2><div class="fields">{fields}</div>'
    else:
        text = _pretty(example) if example is not None else '{"inputs": []}'
        form = ""
    name, number = escape(model), escape(version)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}, version {number}</title><link rel="icon" href="data:,">
<style>{_STYLE}</style></head><body>
<header><h1>{name}</h1><p>Version {number}. {_told(signature)}</p></header>
<nav aria-label="Further"><ul>
<li><a href="/openapi.json">OpenAPI document</a></li><li><a href="/v2/models/{name}">Metadata</a></li>
<li><a href="/metrics">Metrics</a></li><li><a href="/v2/health/ready">Health</a></li>
<li><a href="/version">Version</a></li></ul></nav>
<main><form id="form">{form}
<h2><label for="body">Request to /invocations</label></h2>
<textarea id="body" spellcheck="false" autocomplete="off">{escape(text)}</textarea>
<div class="row"><button id="send" type="submit">Predict</button>
<span id="status" role="status" aria-live="polite"></span></div></form>
<h2>Answer</h2><pre id="answer" aria-live="polite" tabindex="0" aria-label="Answer"></pre>
<dl id="ids" hidden><dt>Prediction</dt><dd id="prediction"></dd>
<dt>Request</dt><dd id="request"></dd></dl>
<h2>The same with curl</h2><pre id="curl" tabindex="0" aria-label="curl command"></pre>
<div class="row"><button id="copy" type="button" class="second">Copy</button>
<span id="copied" role="status"></span></div></main>
<noscript><p>The form needs JavaScript; the paths above work without it.</p></noscript>
<script>{_SCRIPT}</script></body></html>
"""
    return page.encode()


def _told(signature: Signature) -> str:
    if not signature.inputs:
        return "It has no signature: whatever comes is handed to the model."
    if signature.tensors:
        told = [f"{f.name} ({f.dtype}, shape {list(f.shape or ())})" for f in signature.inputs]
        return escape(f"It takes {', '.join(told)}.")
    return f"It takes {len(signature.inputs)} columns."


def _field(number: int, field: Field, value: Any) -> str:
    identity, name = f"field-{number}", escape(field.name)
    word = _WORDS.get(field.type, field.type) + ("" if field.required else ", may be left out")
    label = f'<label for="{identity}">{name} <small>{escape(word)}</small></label>'
    common = f'id="{identity}" data-name="{name}"'
    if field.type == "boolean":
        options = [("true", "true", value is True), ("false", "false", value is False),
                   ("", "missing", value is None)]  # fmt: skip
        chosen = "".join(
            f'<option value="{key}"{" selected" if on else ""}>{told}</option>'
            for key, told, on in options
        )
        return f'<div>{label}<select {common} data-kind="flag">{chosen}</select></div>'
    kind = "number" if field.type in _NUMBERS else "json" if field.type == "any" else "text"
    if value is None:
        text = ""
    else:
        text = value if kind == "text" and isinstance(value, str) else json.dumps(value).decode()
    more = ' inputmode="decimal"' if kind == "number" else ""
    if value == "":
        more += ' data-empty="yes"'
    return (
        f'<div>{label}<input {common} data-kind="{kind}" value="{escape(text)}" '
        f'autocomplete="off"{more}></div>'
    )


def _split(columns: tuple[Field, ...], values: dict[str, Any]) -> str:
    names = ", ".join(json.dumps(field.name).decode() for field in columns)
    cells = ", ".join(json.dumps(values.get(field.name)).decode() for field in columns)
    return f'{{"dataframe_split": {{\n  "columns": [{names}],\n  "data": [[{cells}]]\n}}}}'


def _query(signature: Signature, example: bytes | None) -> Query | None:
    if example is None:
        return None
    try:
        return mlflow.Scoring(signature, Limits()).decode(example, "application/json")
    except (WrongInput, WrongType):
        return None


def _first_row(signature: Signature, query: Query) -> dict[str, Any]:
    if not query.rows:
        return {}
    if query.cells is not None:
        names = query.names if query.names is not None else signature.features
        return dict(zip(names, query.cells[0], strict=False))
    if query.columns is not None:
        return {name: values[0] for name, values in query.columns.items()}
    return {}


def _pretty(body: bytes) -> str:
    """The example with room between its values, if it is JSON."""
    try:
        return msgspec.json.format(body, indent=0).decode() if len(body) < 500 else body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return '{"inputs": []}'
