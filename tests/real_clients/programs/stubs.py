"""The messages that a client's generated stubs describe: message → field → number and type."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
from exchange import answer

Field = descriptor_pb2.FieldDescriptorProto


def look(message: Any, outer: str, found: dict[str, dict[str, Any]]) -> None:
    """Write down a message and those inside it."""
    name = outer + message.name
    entries = {n.name: n for n in message.nested_type if n.options.map_entry}
    fields = found[name] = {}
    for field in message.field:
        kind = field.type_name.rpartition("inference.")[2]
        kind = kind or Field.Type.Name(field.type).removeprefix("TYPE_").lower()
        entry = entries.get(kind.rpartition(".")[2])
        if entry is not None:
            kind = entry.field[1].type_name.rpartition("inference.")[2] + "{}"
        elif field.label == Field.LABEL_REPEATED:
            kind += "[]"
        elif field.HasField("oneof_index"):
            kind += "|"
        fields[field.name] = [field.number, kind]
    for nested in message.nested_type:
        if not nested.options.map_entry:
            look(nested, f"{name}.", found)


def work(given: dict[str, Any]) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto()
    importlib.import_module(given["module"]).DESCRIPTOR.CopyToProto(file)
    found: dict[str, dict[str, Any]] = {}
    for message in file.message_type:
        look(message, "", found)
    methods = {m.name: [m.input_type, m.output_type] for s in file.service for m in s.method}
    return {"package": file.package, "messages": found, "methods": methods}


answer(work)
