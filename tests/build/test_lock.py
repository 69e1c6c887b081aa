"""build/lock.py and needs.py: what an image is made of, written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.errors import UsageError
from treadle.base.image import Platform, Wheel
from treadle.build import lock, needs
from treadle.build.lock import Lock

AMD, ARM = Platform("amd64"), Platform("arm64")
WHEEL = Wheel("numpy", "2.4.6", "numpy-2.4.6.whl", "a" * 64, 17)


def test_what_was_locked_is_found_for_these_very_requirements_only() -> None:
    locked = Lock().with_wheels("serve", AMD, "3.11", ["numpy==2.4.6", "msgspec"], (WHEEL,))
    assert locked.wheels("serve", AMD, "3.11", ["msgspec", "numpy==2.4.6"]) == (WHEEL,)
    assert locked.wheels("serve", AMD, "3.11", ["numpy==2.4.7", "msgspec"]) is None
    assert locked.wheels("serve", ARM, "3.11", ["numpy==2.4.6", "msgspec"]) is None
    assert locked.wheels("train", AMD, "3.11", ["numpy==2.4.6", "msgspec"]) is None
    assert locked.wheels("serve", AMD, "3.12", ["numpy==2.4.6", "msgspec"]) is None


def test_base_is_pinned_for_each_platform() -> None:
    locked = (
        Lock()
        .with_base("python:3.11-slim", AMD, "sha256:a")
        .with_base("python:3.11-slim", ARM, "sha256:b")
    )
    assert locked.base("python:3.11-slim", AMD) == "sha256:a"
    assert locked.base("python:3.11-slim", ARM) == "sha256:b"
    assert locked.base("python:3.12-slim", ARM) is None


WHEELS = st.builds(Wheel, st.text("abc-", min_size=1), st.text("0123.", min_size=1), st.text(min_size=1), st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0, 1 << 40))  # fmt: skip


@given(
    st.none() | st.sampled_from(["gzip-9/zlib-1.3", "none"]),
    st.dictionaries(st.text(min_size=1), st.sampled_from(["sha256:a", "sha256:b"])),
    st.lists(WHEELS, max_size=4, unique_by=lambda one: one.name), st.lists(st.text()),
)  # fmt: skip
def test_text_and_lock_are_inverse(
    compressor: str | None, bases: dict[str, str], wheels: list[Wheel], requirements: list[str]
) -> None:
    locked = Lock(compressor)
    for name, digest in bases.items():
        locked = locked.with_base(name, AMD, digest)
    ordered = tuple(sorted(wheels, key=lambda one: one.name))
    locked = locked.with_wheels("serve", AMD, "3.11", requirements, ordered)
    assert lock.parse(lock.text(locked)) == locked
    assert lock.text(lock.parse(lock.text(locked))) == lock.text(locked)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "compressor": null, "bases": [], "wheels": {}}'])  # fmt: skip
def test_what_is_no_lock_is_said_with_the_way_out(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        lock.parse(text)
    assert "treadle build makes it anew" in str(caught.value.hint)


def test_lock_of_a_newer_treadle_is_refused() -> None:
    with pytest.raises(UsageError, match="has the format 2"):
        lock.parse(json.dumps({"format": 2}))


@given(st.text())
def test_any_text_is_a_lock_or_a_clear_error(text: str) -> None:
    with pytest.raises(UsageError):
        lock.parse(text)


# ---- needs -----------------------------------------------------------------------------------------


def test_server_brings_what_it_imports_and_no_more() -> None:
    found = needs.serve(["scikit-learn==1.9.1", "numpy==2.4.6"], "sklearn")
    assert found.requirements == ("httptools", "msgspec", "numpy==2.4.6", "ruamel.yaml", "scikit-learn==1.9.1", "uvloop")  # fmt: skip


def test_mlflow_is_left_out_of_a_native_model_aloud() -> None:
    found = needs.serve(["mlflow==3.17.2", "scikit-learn==1.9.1"], "sklearn")
    assert not [one for one in found.requirements if "mlflow" in one]
    assert "mlflow==3.17.2 is left out" in found.notes[0]


def test_pyfunc_gets_the_skinny_mlflow_of_the_same_version() -> None:
    assert "mlflow-skinny==3.17.2" in needs.serve(["mlflow==3.17.2"], "pyfunc").requirements
    assert "mlflow-skinny>=3.7,<4" in needs.serve(["transformers"], "pyfunc").requirements


def test_server_imports_only_what_its_needs_name() -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "import treadle.operate.__main__, treadle.operate.serving, treadle.operate.supervisor\n"
        "import treadle.operate.model.loaded, treadle.operate.model.folder\n"
        "from ruamel.yaml import YAML\n"
        "tops = {n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(t for t in tops if not t.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    known = {needs.name_of(one).partition("-")[0] for one in needs.SERVER}
    assert set(done.stdout.split()) - {"treadle", "cython_runtime", "typing_extensions"} <= known


def test_projects_own_lock_is_taken(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# made by hand\npandas==3.1.1 \\\n    --hash=sha256:aa\nnumpy==2.4.6  # pinned\n"
    )
    found = needs.train(tmp_path, {})
    assert found.requirements[:2] == ("pandas==3.1.1", "numpy==2.4.6")
    (tmp_path / "pylock.toml").write_text('[[packages]]\nname = "polars"\nversion = "1.0"\n')
    assert needs.train(tmp_path, {}).requirements[0] == "polars==1.0"


def test_without_a_lock_what_the_pipeline_imports_is_pinned_aloud(tmp_path: Path) -> None:
    found = needs.train(
        tmp_path, {"pandas": "3.1.1", "torch": "2.13.0+cpu", "mine": "source sha256:a"}
    )
    assert found.requirements[:2] == ("pandas==3.1.1", "torch==2.13.0")
    assert "pandas==3.1.1" in found.notes[0]
    with pytest.raises(UsageError, match="absent, which is not installed"):
        needs.train(tmp_path, {"absent": "not installed"})


def test_what_packages_the_imported_librarys_models_comes_with_it(tmp_path: Path) -> None:
    found = needs.train(tmp_path, {"scikit-learn": "1.9.1"}).requirements
    assert any(needs.name_of(one) == "skops" for one in found)
    assert not any(needs.name_of(one) == "lightgbm" for one in found)


def test_line_that_cannot_be_followed_is_said(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r other.txt\n")
    with pytest.raises(UsageError, match="cannot be followed"):
        needs.train(tmp_path, {})


def test_hub_has_mlflow_and_what_treadle_needs() -> None:
    found = needs.hub().requirements
    assert "mlflow>=3.7,<4" in found
    assert any(needs.name_of(one) == "click" for one in found)
    assert not any("extra" in one for one in found)
