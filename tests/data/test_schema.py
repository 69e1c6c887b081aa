from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.errors import SpecError, UsageError
from treadle.base.records import Violation
from treadle.data.schema import (
    Accepted,
    ColumnRule,
    Schema,
    Tolerance,
    accept,
    file_digest,
    load,
    save,
)

SCHEMA = Schema(
    "flights",
    {
        "carrier": ColumnRule("string", 0.0, categories=("9E", "NO", "1", "true")),
        "distance": ColumnRule("integer", 0.0, (80.0, 4983.0)),
        "temp": ColumnRule("float", 0.01, (10.94, 84.02)),
    },
    rows=100,
)
NAMES = st.text("abc_é 1-:#", min_size=1, max_size=6)
SHARES = st.floats(0, 1)
RULES = st.builds(
    ColumnRule,
    st.sampled_from(["integer", "float", "string", "decimal(10,2)"]),
    st.none() | SHARES,
    st.none() | st.tuples(st.floats(-1e12, 0), st.floats(0, 1e12)),
    st.none()
    | st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=5),
        unique=True,
        max_size=4,
    ).map(tuple),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        NAMES,
        st.builds(
            Schema,
            st.just(""),
            st.dictionaries(NAMES, RULES, max_size=3),
            st.booleans(),
            st.none() | st.integers(0, 10**9),
            st.builds(Tolerance, SHARES, SHARES, SHARES, SHARES),
            st.lists(
                st.builds(
                    Accepted,
                    st.just("range"),
                    st.none() | NAMES,
                    NAMES,
                    NAMES,
                    st.just("2026-01-01T00:00:00Z"),
                ),
                max_size=2,
            ).map(tuple),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_what_is_saved_is_loaded(tmp_path_factory, schemas):
    path = tmp_path_factory.mktemp("schema") / "data.schema.yaml"
    schemas = {name: dataclasses.replace(schema, dataset=name) for name, schema in schemas.items()}
    assert save(path, schemas)
    assert load(path) == schemas
    assert not save(path, schemas)


def test_comments_edits_and_other_data_sets_of_a_person_stay(tmp_path):
    path = tmp_path / "data.schema.yaml"
    save(path, {"flights": SCHEMA})
    text = path.read_text()
    assert text.startswith("# What Treadle learned")
    edited = text.replace("confirmed: false", "confirmed: true   # we looked at it").replace(
        "    temp: {type: float", "    # summers are hot here\n    temp: {type: float"
    )
    path.write_text(edited)
    read = load(path)["flights"]
    assert read.confirmed
    wider = dataclasses.replace(
        read, columns={**read.columns, "temp": ColumnRule("float", 0.01, (10.94, 100.04))}
    )
    save(path, {"flights": wider, "arrivals": Schema("arrivals", rows=3)})
    after = path.read_text()
    assert "# we looked at it" in after and "# summers are hot here" in after
    assert "100.04" in after and load(path)["arrivals"].rows == 3
    changed = set(after.splitlines()) - set(edited.splitlines())
    assert not any("carrier" in line or "distance" in line for line in changed)


def test_no_file_is_no_rules(tmp_path):
    assert load(tmp_path / "none.yaml") == {} and file_digest(tmp_path / "none.yaml") == ""


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "flights: {confirmd: true}",
            r"data\.schema\.yaml:1:\d+: flights knows no 'confirmd'; did you mean confirmed\?",
        ),
        ("flights:\n  columns:\n    a: {type: float, range: [3, 1]}", r"3:\d+: range is \[3, 1\]"),
        ("flights:\n  rows: many", r"2:\d+: rows is 'many'"),
        ("flights:\n  confirmed: 1", "confirmed is 1"),
        ("flights:\n  columns:\n    a: float", "column a should hold a type"),
        ("flights: {a: [}", "data.schema.yaml:1"),
        ("- a", "data sets by name"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, text, words):
    path = tmp_path / "data.schema.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        load(path)


def broken(rule, column=None, severity="warn"):
    return Violation("flights", rule, column, "text", severity=severity)


def test_accepting_widens_what_was_broken_and_records_who_and_why():
    observed = Schema(
        "flights",
        {
            "carrier": ColumnRule("string", 0.0, categories=("9E", "ZZ")),
            "distance": ColumnRule("float", 0.2, (17.5, 4000.0)),
            "temp": ColumnRule("float", 0.0, (0.0, 100.0)),
        },
        rows=40,
    )
    violations = [
        broken("category", "carrier"),
        broken("range", "temp"),
        broken("type_changed", "distance"),
        broken("volume"),
        broken("infinite", "temp"),
    ]
    after = accept(
        SCHEMA, violations, observed, reason="new airline", by="ann", at="2026-11-23T00:00:00Z"
    )
    assert after.columns["carrier"].categories == ("1", "9E", "NO", "ZZ", "true")
    assert after.columns["temp"].range == (0.0, 100.0) and after.columns["temp"].infinite
    assert after.columns["distance"] == observed.columns["distance"]
    assert after.rows == 40 and not after.confirmed
    assert after.accepted[0] == Accepted(
        "category", "carrier", "new airline", "ann", "2026-11-23T00:00:00Z"
    )
    gone = accept(
        SCHEMA, [broken("missing_column", "temp", "refuse")], observed, reason="r", by="b", at="t"
    )
    assert gone.columns["temp"].optional


@pytest.mark.parametrize(
    "violation, named",
    [
        (broken("duplicate_key"), ()),
        (broken("empty"), ()),
        (broken("missing_column", "temp"), ("temp",)),
        (broken("missing_column", "unknown"), ()),
        (broken("label", "late"), ()),
    ],
)
def test_structure_is_not_for_accepting(violation, named):
    with pytest.raises(UsageError, match="cannot be accepted"):
        accept(SCHEMA, [violation], SCHEMA, reason="r", by="b", at="t", named=named)


def test_accepting_needs_a_reason():
    with pytest.raises(UsageError, match="reason"):
        accept(SCHEMA, [broken("volume")], SCHEMA, reason=" ", by="b", at="t")
