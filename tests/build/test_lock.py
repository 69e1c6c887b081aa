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


WHEELS = st.builds(Wheel, st.text("abc-", min_size=1), st.text("0123.", min_size=1), st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,20}\.whl", fullmatch=True), st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0, 1 << 40))  # fmt: skip


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


@pytest.mark.parametrize(
    "change",
    [{"filename": "../../a.whl"}, {"filename": "/a.whl"}, {"filename": "a.txt"}, {"sha256": "../x"},
     {"sha256": 7}, {"size_bytes": "17"}, {"size_bytes": True}, {"more": 1}, {"name": None}],
)  # fmt: skip
def test_wheel_that_would_lie_outside_the_cache_is_no_wheel(change: dict) -> None:
    told = json.loads(lock.text(Lock().with_wheels("serve", AMD, "3.11", [], (WHEEL,))))
    told["wheels"]["serve linux/amd64 3.11"]["wheels"][0] |= change
    with pytest.raises(UsageError, match="is no lock of Treadle"):
        lock.parse(json.dumps(told))


def test_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no lock of Treadle"):
        lock.read(tmp_path)


def test_update_forgets_what_it_resolves_anew_and_nothing_else() -> None:
    locked = Lock("gzip-6/x")
    for purpose, platform in (("serve", AMD), ("serve", ARM), ("train", AMD)):
        locked = locked.with_wheels(purpose, platform, "3.11", ["numpy"], (WHEEL,))
        locked = locked.with_base("python:3.11-slim", platform, "sha256:a")
    locked = locked.with_base("other", AMD, "sha256:b")
    found = locked.renewed("serve", [AMD], "python:3.11-slim")
    assert found.wheels("serve", AMD, "3.11", ["numpy"]) is None
    assert found.wheels("serve", ARM, "3.11", ["numpy"]) == (WHEEL,)
    assert found.wheels("train", AMD, "3.11", ["numpy"]) == (WHEEL,)
    assert found.base("python:3.11-slim", AMD) is None
    assert found.base("python:3.11-slim", ARM) == "sha256:a"
    assert found.base("other", AMD) == "sha256:b"
    assert found.compressor is None


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


def test_pyfunc_has_the_pandas_that_its_loader_imports() -> None:
    assert "pandas" in needs.serve(["mlflow==3.17.2"], "pyfunc").requirements
    found = needs.serve(["mlflow==3.17.2", "pandas==3.1.1"], "pyfunc").requirements
    assert [one for one in found if needs.name_of(one) == "pandas"] == ["pandas==3.1.1"]


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


def test_scorer_imports_only_what_its_needs_name() -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "import treadle.operate.__main__, treadle.operate.model.loaded\n"
        "import treadle.operate.scoring.scorer, treadle.operate.scoring.command\n"
        "import pandas, pyarrow\n"
        "brought = {n.partition('.')[0] for n in sys.modules}\n"
        "import pyarrow.parquet, pyarrow.csv, pyarrow.json, pyarrow.fs\n"
        "tops = {n.partition('.')[0] for n in sys.modules} - brought - set(sys.stdlib_module_names)\n"
        "print(*sorted(t for t in tops if not t.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
    found = needs.batch(["pandas==3.1.1", "scikit-learn==1.9.1"], "sklearn").requirements
    assert {*needs.SERVER, "pandas==3.1.1", "pyarrow"} <= set(found)
    assert "pandas" not in found


def test_projects_own_lock_is_taken(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# made by hand\npandas==3.1.1 \\\n    --hash=sha256:aa\nnumpy==2.4.6  # pinned\n"
    )
    found = needs.train(tmp_path, {})
    assert found.requirements[:2] == ("pandas==3.1.1", "numpy==2.4.6")
    (tmp_path / "pylock.toml").write_text('[[packages]]\nname = "polars"\nversion = "1.0"\n')
    assert needs.train(tmp_path, {}).requirements[0] == "polars==1.0"


def test_markers_of_a_pylock_are_kept(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(
        "[[packages]]\nname = 'pywin32'\nversion = '311'\nmarker = 'sys_platform == \"win32\"'\n"
        "[[packages]]\nname = 'shop'\narchive = {url = 'https://x.example/shop-1-py3-none-any.whl'}\n"
    )
    found = needs.train(tmp_path, {}).requirements
    assert found[:2] == (
        'pywin32==311 ; sys_platform == "win32"',
        "shop @ https://x.example/shop-1-py3-none-any.whl",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "cannot be read"),
        ("[[packages]]\nversion = '1'", "cannot be read"),
        ("packages = 7", "cannot be read"),
        ("[[packages]]\nname = 'own'\ndirectory = {path = 'own'}", "own is a folder"),
        (
            "[[packages]]\nname = 'a'\nversion = '1'\nmarker = \"'dev' in dependency_groups\"",
            "groups",
        ),
    ],
)
def test_pylock_that_cannot_be_followed_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pylock.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        needs.train(tmp_path, {})


def test_installed_version_is_the_one_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(folder: str, name: str, version: str) -> None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )

    put("~reading_desk-1.0.dist-info", "reading-desk", "1.0")
    put("reading_desk-2.0.dist-info", "reading-desk", "2.0")
    put("odd-1.dist-info", "odd", "1.0-distribution")
    (tmp_path / "broken-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = needs.installed()
    assert "reading-desk==2.0" in found
    assert not [one for one in found if one.startswith(("odd", "broken"))]


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
