"""build/image.py: plan and layers → bytes."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.digest import digest_bytes
from treadle.base.errors import Refused
from treadle.base.image import DOCKER_LAYER_GZIP, LAYER_GZIP, LAYER_TAR, Blob, Descriptor
from treadle.build import image
from treadle.build.image import Base, ImagePlan, Part

CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2026-01-01T00:00:00Z",
    "config": {
        "Env": ["PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8", "PYTHON_VERSION=3.12.4"],
        "Cmd": ["python3"],
        "Entrypoint": ["/bin/start"],
        "Labels": {"maintainer": "somebody"},
    },
    "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "debian"}],
}


def layer(text: str, media_type: str = LAYER_GZIP) -> Blob:
    data = text.encode()
    return Blob(
        Descriptor(media_type, digest_bytes(data), len(data)),
        lambda: io.BytesIO(data),
        diff_id=digest_bytes(b"tar of " + data),
        title=text,
    )


def base(**changes: object) -> Base:
    return Base("sha256:" + "b" * 64, {**CONFIG, **changes}, (layer("debian", DOCKER_LAYER_GZIP),))


def plan(**changes: object) -> ImagePlan:
    parts = (
        Part("wheels", "wheel numpy", {"numpy": "2.4.5 sha256:aa"}),
        Part("runtime", "treadle", {"operate/a.py": "sha256:01"}),
        Part("model", "model", {"model.skops": "sha256:02"}),
    )
    found: dict[str, object] = {
        "purpose": "serve", "platform": "linux/amd64", "python": "3.12",
        "base": "sha256:" + "b" * 64, "compressor": "gzip-6/zlib-1.3", "parts": parts,
        "process": image.server("flights", "sha256:cc", trust_pickle=False),
        "annotations": {"model": "sha256:cc"},
    }  # fmt: skip
    return ImagePlan(**{**found, **changes})  # type: ignore[arg-type]


LAYERS = [layer("numpy"), layer("treadle"), layer("model", LAYER_TAR)]


def made(**changes: object) -> tuple[dict, dict]:
    built = image.assemble(plan(**changes), base(), LAYERS)
    with built.manifest.open() as manifest, built.config.open() as config:
        return json.loads(manifest.read()), json.loads(config.read())


def test_manifest_names_base_first_and_model_last() -> None:
    manifest, config = made()
    assert [entry["digest"] for entry in manifest["layers"]] == [
        layer("debian").digest, *(one.digest for one in LAYERS)
    ]  # fmt: skip
    assert config["rootfs"]["diff_ids"][-1] == LAYERS[-1].diff_id
    assert manifest["config"]["digest"] == digest_bytes(
        image.assemble(plan(), base(), LAYERS).config.open().read()
    )


def test_layer_of_a_docker_base_has_the_oci_name_for_the_same_bytes() -> None:
    assert made()[0]["layers"][0]["mediaType"] == LAYER_GZIP


def test_process_of_the_base_does_not_leak_into_the_image() -> None:
    config = made()[1]["config"]
    assert config["Entrypoint"] == ["python", "-m", "treadle.operate"]
    assert config["Cmd"] == ["serve"]
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"8080/tcp": {}}


def test_variables_of_the_base_stay_and_our_python_is_found_first() -> None:
    env = dict(item.split("=", 1) for item in made()[1]["config"]["Env"])
    assert env["LANG"] == "C.UTF-8"
    assert env["PATH"] == "/opt/treadle/bin:/usr/local/bin:/usr/bin"
    assert env["TREADLE_MODEL"] == "/models"
    assert env["TREADLE_HOST"] == "0.0.0.0"


def test_labels_repeat_the_annotations_and_keep_the_bases() -> None:
    manifest, config = made()
    assert config["config"]["Labels"]["maintainer"] == "somebody"
    assert manifest["annotations"].items() <= config["config"]["Labels"].items()
    assert manifest["annotations"]["dev.treadle.model"] == "sha256:cc"


def test_history_has_an_entry_for_each_layer() -> None:
    for history in (CONFIG["history"], [], [{"created_by": "x", "empty_layer": True}] * 3):
        built = image.assemble(plan(), base(history=history), LAYERS)
        config = json.loads(built.config.open().read())
        filled = [entry for entry in config["history"] if not entry.get("empty_layer")]
        assert len(filled) == len(config["rootfs"]["diff_ids"])


def test_equal_plans_give_equal_digests_and_any_other_field_another() -> None:
    first = image.assemble(plan(), base(), LAYERS).digest
    assert image.assemble(plan(), base(), LAYERS).digest == first
    other = image.assemble(plan(annotations={"model": "sha256:dd"}), base(), LAYERS)
    assert other.digest != first


def test_base_for_another_platform_is_refused() -> None:
    with pytest.raises(Refused, match=r"linux/arm64, and linux/amd64 is built"):
        image.assemble(plan(), base(architecture="arm64"), LAYERS)


def test_too_many_layers_are_refused() -> None:
    full = Base("sha256:" + "b" * 64, CONFIG, tuple(layer(str(n)) for n in range(118)))
    with pytest.raises(Refused, match="121 layers"):
        image.assemble(plan(), full, LAYERS)


def test_index_names_each_platform_and_no_base() -> None:
    arm = image.assemble(plan(platform="linux/arm64"), base(architecture="arm64"), LAYERS)
    amd = image.assemble(plan(), base(), LAYERS)
    found = json.loads(image.index([arm, amd], [plan(), plan()]).open().read())
    assert [entry["platform"]["architecture"] for entry in found["manifests"]] == ["amd64", "arm64"]
    assert "org.opencontainers.image.base.digest" not in found["annotations"]


# ---- explain -------------------------------------------------------------------------------------


def reasons(before: ImagePlan | None, now: ImagePlan) -> dict[str, tuple[str, str]]:
    return {c.layer: (c.action, c.reason) for c in image.explain(before, now)}


def test_unchanged_plan_keeps_every_layer() -> None:
    assert {action for action, _ in reasons(plan(), plan()).values()} == {"keep"}


def test_new_model_changes_one_layer_and_says_which_file() -> None:
    parts = (*plan().parts[:2], Part("model", "model", {"model.skops": "sha256:03"}))
    found = reasons(plan(), plan(parts=parts))
    assert found["model"] == ("change", "model.skops changed")
    assert found["wheel numpy"][0] == found["treadle"][0] == "keep"


def test_other_version_of_a_wheel_is_named() -> None:
    parts = (Part("wheels", "wheel numpy", {"numpy": "2.4.6 sha256:bb"}), *plan().parts[1:])
    assert reasons(plan(), plan(parts=parts))["wheel numpy"] == ("change", "numpy 2.4.5 → 2.4.6")


def test_other_compressor_changes_all_but_the_uncompressed_model() -> None:
    found = reasons(plan(), plan(compressor="gzip-9/zlib-1.3"))
    assert found["wheel numpy"] == ("change", "compressor gzip-6/zlib-1.3 → gzip-9/zlib-1.3")
    assert found["model"][0] == "keep"


def test_layer_that_is_gone_is_named() -> None:
    found = reasons(plan(), plan(parts=plan().parts[1:]))
    assert found["wheel numpy"][0] == "remove"


@given(st.dictionaries(st.sampled_from("abcdef"), st.text("0123456789", min_size=1), min_size=1))
def test_part_is_named_by_its_content_and_not_by_its_order(content: dict[str, str]) -> None:
    backwards = dict(reversed(content.items()))
    assert Part("wheels", "w", content).digest == Part("wheels", "w", backwards).digest
