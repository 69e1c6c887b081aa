"""The logical types of columns, and what several files have in common; standard library only.

A column has one of these logical types, whatever the file's format and width: `integer` (64 bit),
`unsigned` (64 bit, only where a file says so), `float` (64 bit), `boolean`, `string`, `date`,
`timestamp` (microseconds, without zone), `timestamp_utc` (microseconds, from any zone), `time`,
`duration` (microseconds), `decimal(P,S)`, `binary`, `null` (nothing but missing values) and
`nested` (lists, structs). One width for each type: so a month written as int8 and one written as
int16 go together, and a CSV file and a Parquet file with the same values give the same frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from treadle.base.records import Column, Violation

DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")


class Unreadable(Exception):
    """A file that cannot be read as what its name says; `rule` and a sentence."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule
        self.text = text


def first_line(error: BaseException) -> str:
    """An error's first line, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def numeric(kind: str) -> bool:
    """Whether values of the logical type are numbers."""
    return kind in ("integer", "unsigned", "float") or kind.startswith("decimal")


def common(kinds: Iterable[str]) -> str | None:
    """The one type that holds values of all `kinds` without loss of meaning; None if none does."""
    result = "null"
    for kind in kinds:
        if kind in (result, "null"):
            continue
        if result == "null":
            result = kind
            continue
        pair = {kind, result}
        decimals = [found for found in map(DECIMAL.fullmatch, pair) if found]
        if pair <= {"integer", "unsigned", "float"}:
            result = "float"
        elif pair == {"date", "timestamp"}:
            result = "timestamp"
        elif len(decimals) == 2:
            scale = max(int(match[2]) for match in decimals)
            whole = max(int(match[1]) - int(match[2]) for match in decimals)
            result = f"decimal({min(38, whole + scale)},{scale})"
        elif len(decimals) == 1 and pair & {"integer", "float"}:
            result = "float" if "float" in pair else f"decimal(38,{decimals[0][2]})"
        else:
            return None
    return result


def unify(parts: Sequence[tuple[Column, ...]]) -> tuple[Column, ...]:
    """The columns of all parts together, in the order of their first appearance.

    A column of types that do not go together is a `string` (the scan reports it); one that a part
    lacks is nullable, as is one that is null anywhere.
    """
    kinds: dict[str, list[str]] = {}
    nullable: dict[str, bool] = {}
    for columns in parts:
        for column in columns:
            kinds.setdefault(column.name, []).append(column.type)
            nullable[column.name] = nullable.get(column.name, False) or column.nullable
    return tuple(
        Column(
            name,
            common(dict.fromkeys(found)) or "string",
            nullable[name] or len(found) < len(parts),
        )
        for name, found in kinds.items()
    )


def refuse_text(dataset: str, violations: Sequence[Violation]) -> str:
    """All violations as a person reads them."""
    lines = [
        f"data set {dataset}: {len(violations)} {'rule' if len(violations) == 1 else 'rules'} broken"
    ]
    for violation in violations:
        mark = "" if violation.severity == "refuse" else " (warning)"
        lines.append(f"  {violation.rule}{mark}: {violation.text}")
        lines += [f"      {example}" for example in violation.examples]
    return "\n".join(lines)
