from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from treadle.build import mlmodel

plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text()
values = st.recursive(
    plain,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4),
    max_leaves=12,
)


def unnested(value: object) -> bool:
    """The writer's lists hold plain values and mappings, not lists."""
    if isinstance(value, dict):
        return all(map(unnested, value.values()))
    if isinstance(value, list):
        return all(not isinstance(v, list) and v != {} and unnested(v) for v in value)
    return True


@given(st.dictionaries(st.text(), values.filter(unnested), max_size=5))
def test_what_is_written_is_what_yaml_reads(value: dict[str, object]) -> None:
    assert (yaml.safe_load(mlmodel.yaml(value)) or {}) == value


def test_the_environment_pins_what_the_model_needs_and_lets_mlflow_move() -> None:
    files = mlmodel.environment(("numpy==2.0",))
    assert files["requirements.txt"] == "numpy==2.0\n"
    assert yaml.safe_load(files["conda.yaml"])["dependencies"][2]["pip"][1:] == ["numpy==2.0"]
    assert yaml.safe_load(files["python_env.yaml"])["dependencies"][0] == "-r requirements.txt"
