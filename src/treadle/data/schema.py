"""`data.schema.yaml`: what is known of each data set; learned from the first snapshot, then a person's.

What is in the file holds. `confirmed: false` lets the learned rules (range, categories, missing,
rows) warn; `confirmed: true` lets them refuse. Structure (a column that is gone, another type)
refuses either way. Treadle changes only what `treadle data accept` is told to, and leaves comments
and everything else as it stands.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from treadle.base.digest import digest_bytes, digest_file
from treadle.base.errors import SpecError, UsageError
from treadle.base.records import Digested, Violation

FILE = "data.schema.yaml"
_WORDS = re.compile(r"\w[\w .+-]*", re.ASCII)
OPEN_ABOVE = 50
"""A text column with more values than this has no list of categories."""
STRUCTURE = frozenset(
    (
        "empty",
        "unreadable",
        "delimiter",
        "duplicate_key",
        "missing_key",
        "missing_time",
        "event_time",
        "label",
        "type_conflict",
    )
)
"""Rules that no entry of the file can soften: the data (or the spec) has to change."""

_HEADER = """\
# What Treadle learned of each data set from its first snapshot. The file is yours: edit it, comment
# it, commit it. A column that is missing or has another type is refused from the first day; range,
# categories, missing and rows only warn until you set `confirmed: true`, then they refuse as well.
# No range is learned for key, time, calendar and number-like columns (names such as hour, month,
# id), no categories where a column has more than 50 values. `treadle data accept` widens a rule.
"""
_TOLERANCE_NOTES = {
    "outside": "share of rows that may lie outside a range",
    "new_categories": "share of rows that may hold a category that is not listed",
    "missing": "how much a column's share of missing values may grow",
    "shrink": "share of `rows` by which the data set may become smaller",
}


@dataclass(frozen=True)
class Tolerance(Digested):
    """How far data may leave what was learned before a learned rule is broken; all are shares."""

    outside: float = 0.001
    new_categories: float = 0.001
    missing: float = 0.02
    shrink: float = 0.5


@dataclass(frozen=True)
class ColumnRule(Digested):
    """What is known of one column. None: no rule of that kind."""

    type: str
    """The logical type (see `data/types.py`)."""
    missing: float | None = None
    """Share of missing values, 0 to 1."""
    range: tuple[float, float] | None = None
    """The lowest and the highest finite value."""
    categories: tuple[str, ...] | None = None
    optional: bool = False
    """The column may be absent."""
    infinite: bool = False
    """Infinities are expected."""


@dataclass(frozen=True)
class Accepted(Digested):
    """A person's answer to a violation."""

    rule: str
    column: str | None
    reason: str
    by: str
    at: str


@dataclass(frozen=True)
class Schema(Digested):
    """All that is known of one data set."""

    dataset: str
    columns: dict[str, ColumnRule] = field(default_factory=dict)
    confirmed: bool = False
    rows: int | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    accepted: tuple[Accepted, ...] = ()


def file_digest(path: Path) -> str:
    """The digest of the file's bytes ("" if there is none): what a cached scan depends on."""
    try:
        return digest_file(path)
    except FileNotFoundError:
        return ""


def accept(
    schema: Schema,
    violations: Sequence[Violation],
    observed: Schema,
    *,
    reason: str,
    by: str,
    at: str,
    named: Collection[str] = (),
) -> Schema:
    """`schema` widened so that `violations` no longer break it; who, why and when are recorded.

    `observed` is what the refused snapshot itself would teach (`ScanReport.observed`); `at` is ISO
    8601; `named` are the columns that treadle.yaml names (`ScanReport.named`), which cannot be absent.
    UsageError for violations that only other data can mend (an empty file, duplicate keys …).
    """
    if not reason.strip():
        raise UsageError("accepting data needs a reason", hint="--reason 'what makes this right'")
    stuck = [
        v
        for v in violations
        if v.rule in STRUCTURE
        or (v.rule == "missing_column" and (v.column in named or v.column not in schema.columns))
    ]
    if stuck:
        raise UsageError(
            "cannot be accepted: " + "; ".join(f"{v.rule}: {v.text}" for v in stuck),
            hint="correct the data, or what treadle.yaml says of it",
        )
    columns = dict(schema.columns)
    rows = schema.rows
    for violation in violations:
        name = violation.column
        if violation.rule == "volume":
            rows = observed.rows
        elif name is not None and violation.rule == "missing_column":
            columns[name] = replace(columns[name], optional=True)
        elif name is not None:
            columns[name] = _widened(
                columns.get(name, ColumnRule(observed.columns[name].type)),
                observed.columns[name],
                violation.rule,
            )
    answers = [Accepted(v.rule, v.column, reason, by, at) for v in violations]
    return replace(schema, columns=columns, rows=rows, accepted=(*schema.accepted, *answers))


def _widened(rule: ColumnRule, seen: ColumnRule, broken: str) -> ColumnRule:
    if broken == "type_changed":
        return replace(seen, optional=rule.optional, infinite=rule.infinite or seen.infinite)
    if broken == "infinite":
        return replace(rule, infinite=True)
    if broken == "missing":
        return replace(rule, missing=max(rule.missing or 0.0, seen.missing or 0.0))
    if broken == "range" and rule.range is not None:
        if seen.range is None:
            return replace(rule, range=None)
        low, high = min(rule.range[0], seen.range[0]), max(rule.range[1], seen.range[1])
        return replace(rule, range=(low, high))
    if broken == "category" and rule.categories is not None:
        if seen.categories is None:
            return replace(rule, categories=None)
        both = tuple(sorted({*rule.categories, *seen.categories}))
        return replace(rule, categories=both if len(both) <= OPEN_ABOVE else None)
    return rule


# ---- the file ------------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Schema]:
    """Every data set's schema; {} if there is no file. SpecError with all mistakes and their lines."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path.name}: byte {error.start + 1} is no UTF-8 text ({error.reason})",
            hint=f"restore {path.name}, or delete it: it is learned again",
        ) from error
    document = _parse(text, path)
    if document is None:
        return {}
    mistakes: list[str] = []
    found = {}
    if not isinstance(document, Mapping):
        raise SpecError(f"{path.name}: data sets by name are expected")
    for name, value in document.items():
        reader = _Reader(path.name, mistakes)
        found[str(name)] = reader.schema(str(name), value, document)
    if mistakes:
        raise SpecError(f"{path.name} has {len(mistakes)} mistake(s)", mistakes)
    return {name: schema for name, schema in found.items() if schema is not None}


def save(path: Path, schemas: Mapping[str, Schema]) -> bool:
    """Write `schemas` into the file, which keeps its other data sets, comments and order.

    Returns whether anything changed; the file is written whole (rename) or not at all.
    """
    from treadle.clients.files import write_file

    present = load(path)
    if all(present.get(name) == schema for name, schema in schemas.items()):
        return False
    text = path.read_text("utf-8") if path.exists() else ""
    document = _parse(text, path)
    fresh = document is None
    if fresh:
        from ruamel.yaml.comments import CommentedMap

        document = CommentedMap()
    for name, schema in schemas.items():
        _update(document, name, _plain(schema))
        tolerance = document[name].get("tolerance")
        if tolerance is not None and name not in text:
            for key, note in _TOLERANCE_NOTES.items():
                if key in tolerance:
                    tolerance.yaml_add_eol_comment(note, key, column=28)
    stream = io.StringIO()
    _yaml().dump(document, stream)
    written = stream.getvalue()
    if fresh:
        written = (text.rstrip("\n") + "\n" if text.strip() else _HEADER) + written
    data = written.encode("utf-8")
    if path.exists() and digest_bytes(data) == digest_file(path):
        return False
    write_file(path, data)
    return True


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.width = 100
    yaml.preserve_quotes = True
    return yaml


def _parse(text: str, path: Path) -> Any:
    from ruamel.yaml.error import MarkedYAMLError

    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise SpecError(f"{path.name}{where}: {error.problem or error}") from error


def _plain(schema: Schema) -> dict[str, Any]:
    value: dict[str, Any] = {"confirmed": schema.confirmed, "rows": schema.rows}
    value["tolerance"] = {f.name: getattr(schema.tolerance, f.name) for f in fields(Tolerance)}
    columns = {}
    for name, rule in schema.columns.items():
        entry: dict[str, Any] = {"type": rule.type}
        if rule.missing is not None:
            entry["missing"] = rule.missing
        if rule.range is not None:
            entry["range"] = [_number(bound) for bound in rule.range]
        if rule.categories is not None:
            entry["categories"] = list(rule.categories)
        if rule.optional:
            entry["optional"] = True
        if rule.infinite:
            entry["infinite"] = True
        columns[name] = entry
    value["columns"] = columns
    if schema.accepted:
        value["accepted"] = [
            {
                "rule": answer.rule,
                **({"column": answer.column} if answer.column else {}),
                "reason": answer.reason,
                "by": answer.by,
                "at": answer.at,
            }
            for answer in schema.accepted
        ]
    return value


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)


def _text(value: Any) -> Any:
    """A text with anything but words in it, in quotes: ruamel.yaml writes `[?0]` and reads a map."""
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    if not isinstance(value, str) or _WORDS.fullmatch(value):
        return value
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(value)


def _update(target: Any, key: str, value: Any) -> None:
    """Put `value` at `key`, touching only what differs, so that comments stay where they are."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    key = _text(key)
    if isinstance(value, str):
        value = _text(value)
    if isinstance(value, dict):
        if not isinstance(target.get(key), dict):
            target[key] = CommentedMap()
            if all(not isinstance(item, dict) for item in value.values()) and "type" in value:
                target[key].fa.set_flow_style()
        for name in [name for name in target[key] if name not in value]:
            del target[key][name]
        for name, item in value.items():
            _update(target[key], name, item)
    elif isinstance(value, list):
        present = target.get(key)
        if isinstance(present, list) and list(present) == value[: len(present)]:
            present.extend(_text(item) for item in value[len(present) :])
            return
        if present != value:
            made = CommentedSeq(_text(item) for item in value)
            if not any(isinstance(item, dict) for item in value):
                made.fa.set_flow_style()
            target[key] = made
    elif (
        key not in target
        or target[key] != value
        or isinstance(target[key], bool) != isinstance(value, bool)
    ):
        target[key] = value


class _Reader:
    """Reads one data set's entry; every mistake with its line."""

    def __init__(self, file: str, mistakes: list[str]) -> None:
        self.file = file
        self.mistakes = mistakes

    def _wrong(self, parent: Any, key: Any, text: str) -> None:
        try:
            line, column = parent.lc.key(key)
            where = f"{self.file}:{line + 1}:{column + 1}"
        except (AttributeError, KeyError, TypeError):
            where = self.file
        self.mistakes.append(f"{where}: {text}")

    def _keys(self, value: Any, allowed: Sequence[str], what: str) -> None:
        import difflib

        for key in value:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(allowed)}"
                self._wrong(value, key, f"{what} knows no {key!r}{hint}")

    def _get(self, value: Any, key: str, kind: Any, default: Any, wanted: str) -> Any:
        found = value.get(key, default)
        if found is None or found is default:
            return default
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            self._wrong(value, key, f"{key} is {found!r}; wanted: {wanted}")
            return default
        return found

    def schema(self, name: str, value: Any, parent: Any) -> Schema | None:
        if not isinstance(value, Mapping):
            self._wrong(parent, name, f"{name} should hold confirmed, rows, tolerance and columns")
            return None
        self._keys(value, ("confirmed", "rows", "tolerance", "columns", "accepted"), name)
        tolerance = self._get(value, "tolerance", Mapping, {}, "shares by name")
        names = [f.name for f in fields(Tolerance)]
        self._keys(tolerance, names, "tolerance")
        shares = {
            key: float(self._get(tolerance, key, int | float, getattr(Tolerance(), key), "a share"))
            for key in names
        }
        columns = self._get(value, "columns", Mapping, {}, "rules by column")
        rules = {
            str(column): rule
            for column, entry in columns.items()
            if (rule := self.rule(str(column), entry, columns)) is not None
        }
        accepted = self._get(value, "accepted", list, [], "a list")
        answers = []
        for entry in accepted:
            if not isinstance(entry, Mapping):
                self._wrong(
                    value, "accepted", f"{entry!r} should hold rule, column, reason, by, at"
                )
                continue
            self._keys(entry, ("rule", "column", "reason", "by", "at"), "accepted")
            answers.append(
                Accepted(
                    *(
                        str(entry.get("rule", "")),
                        None if entry.get("column") is None else str(entry["column"]),
                    ),
                    *(str(entry.get(key, "")) for key in ("reason", "by", "at")),
                )
            )
        return Schema(
            name,
            rules,
            bool(self._get(value, "confirmed", bool, default=False, wanted="true or false")),
            self._get(value, "rows", int, None, "a number of rows"),
            Tolerance(**shares),
            tuple(answers),
        )

    def rule(self, name: str, value: Any, parent: Any) -> ColumnRule | None:
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            self._wrong(parent, name, f"column {name} should hold a type, such as {{type: float}}")
            return None
        self._keys(
            value,
            ("type", "missing", "range", "categories", "optional", "infinite"),
            f"column {name}",
        )
        missing = self._get(value, "missing", int | float, None, "a share from 0 to 1")
        bounds = self._get(value, "range", list, None, "[lowest, highest]")
        if bounds is not None and not (
            len(bounds) == 2
            and all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds)
            and bounds[0] <= bounds[1]
        ):
            self._wrong(value, "range", f"range is {list(bounds)!r}; wanted: [lowest, highest]")
            bounds = None
        listed = self._get(value, "categories", list, None, "a list of texts")
        return ColumnRule(
            str(value["type"]),
            None if missing is None else float(missing),
            None if bounds is None else (float(bounds[0]), float(bounds[1])),
            None if listed is None else tuple(str(item) for item in listed),
            bool(self._get(value, "optional", bool, default=False, wanted="true or false")),
            bool(self._get(value, "infinite", bool, default=False, wanted="true or false")),
        )


def where(folder: Path) -> Path:
    """The schema file of the project in `folder`."""
    return Path(os.path.join(folder, FILE))
