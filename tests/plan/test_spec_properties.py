"""plan/spec.py: whatever is done to a treadle.yaml, it is a spec or a mistake at its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.spec_files import LINES, VALID, written

from treadle.base.errors import SpecError
from treadle.base.spec import Spec
from treadle.plan.spec import load

KEYED = [n for n, line in enumerate(LINES) if re.match(r"\s*(- )?[a-z_]+:", line)]
FREE = {"flights", "arrivals", "zebra", "nightly"}  # names that a person chooses
READ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def block(number: int) -> range:
    """The lines of the key in line `number`: its own and those indented deeper."""
    indent = len(LINES[number]) - len(LINES[number].lstrip(" "))
    end = number + 1
    while end < len(LINES) and len(LINES[end]) - len(LINES[end].lstrip(" ")) > indent:
        end += 1
    return range(number, end)


def outcome(folder: Path, text: str | bytes) -> tuple[Spec | None, tuple[str, ...]]:
    try:
        return load(written(folder, text)), ()
    except SpecError as error:
        assert error.mistakes
        for mistake in error.mistakes:
            assert re.match(r"treadle\.yaml:\d+:\d+: ", mistake), mistake
        return None, error.mistakes


@READ
@given(st.sampled_from(KEYED))
def test_a_deleted_key_is_a_default_or_a_mistake_that_names_it_or_what_needs_it(tmp_path, number):
    lines = [line for n, line in enumerate(LINES) if n not in block(number)]
    spec, found = outcome(tmp_path, "\n".join(lines))
    name = LINES[number].strip(" -").split(":")[0]
    assert spec is not None or any(f"`{name}`" in item or "{" in item or "exactly one" in item
                                   or "belong together" in item or "margin" in item
                                   or "nothing" in item for item in found)  # fmt: skip


@READ
@given(st.sampled_from(KEYED), st.sampled_from("xqz"), st.data())
def test_a_misspelt_key_is_told_in_its_line(tmp_path, number, letter, data):
    match = re.match(r"(\s*(?:- )?)([a-z_]+)(:.*)", LINES[number])
    assert match is not None
    place = data.draw(st.integers(0, len(match[2])))
    name = match[2][:place] + letter + match[2][place:]
    if match[2] in FREE:
        return
    if re.fullmatch(r"  [a-z]+", LINES[number].split(":")[0]) and match[2] == "model":
        return  # the step's name is free
    text = "\n".join([*LINES[:number], f"{match[1]}{name}{match[3]}", *LINES[number + 1 :]])
    spec, found = outcome(tmp_path, text)
    assert spec is None
    assert any(item.startswith(f"treadle.yaml:{number + 1}:") and name in item for item in found)


@READ
@given(
    st.sampled_from([n for n in KEYED if not LINES[n].endswith(":")]),
    st.sampled_from(["{a: b}", "[[1]]", "[{a: 1}]"]),
)
def test_a_value_of_a_wrong_type_is_told_in_its_line(tmp_path, number, wrong):
    key = LINES[number].partition(":")[0]
    text = "\n".join([*LINES[:number], f"{key}: {wrong}", *LINES[number + 1 :]])
    spec, found = outcome(tmp_path, text)
    assert spec is None
    assert any(item.startswith(f"treadle.yaml:{number + 1}:") for item in found), found


@READ
@given(st.integers(0, len(VALID)), st.integers(0, 12), st.text(max_size=6))
def test_any_edit_of_the_text_is_a_spec_or_a_spec_error(tmp_path, place, removed, added):
    text = VALID[:place] + added + VALID[place + removed :]
    outcome(tmp_path, text.encode("utf-8", "surrogatepass"))


YAML_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["project", "data", "model", "test", "gates", "deploy", "target", "files",
                         "retrain", "when", "monitor", "truth", "key", "steps", "cache", "a", ""]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@READ
@given(YAML_LIKE)
def test_any_json_is_a_spec_or_a_spec_error(tmp_path, value):
    outcome(tmp_path, json.dumps(value))


@READ
@given(st.binary(max_size=200))
def test_any_bytes_are_a_spec_error(tmp_path, data):
    assert outcome(tmp_path, data)[0] is None
