"""`treadle build`: from a model to an image that independent programs read, run and compare."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.support import base_image, images, registry
from tests.support.projects import Ran, treadle

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


class Built(Project):
    """A project whose commands share a cache of layers, and whose base is a local one."""

    cache: Path

    def __call__(self, *arguments: str, code: int | None = 0, **options) -> Ran:
        env = {"TREADLE_CACHE": str(self.cache), **options.pop("env", {})}
        ran = treadle(self.folder, *arguments, env=env, **options)
        assert code is None or ran.code == code, (arguments, ran)
        return ran


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The flights, turned once and served by a process."""
    images.require("base")
    folder = tmp_path_factory.mktemp("flights") / "flights"
    shutil.copytree(
        ROOT / "examples/flights",
        folder,
        ignore=shutil.ignore_patterns(".treadle", "data.schema.yaml"),
    )
    text = (folder / "treadle.yaml").read_text()
    (folder / "treadle.yaml").write_text(
        text.replace("port: 8080", "port: 0") + f'build: {{base: "oci:{base_image.layout()}"}}\n'
    )
    project = Built(folder)
    project.cache = tmp_path_factory.mktemp("cache")
    project("up")
    yield project
    project("down", code=None)


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    images.require("registry")
    with registry.registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="session")
def pushed(flights: Built, address: str) -> str:
    return flights("build", "--output", f"{address}/flights").out.strip()


def ask(port: int, body: bytes) -> tuple[dict, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read()), dict(answer.headers)
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.fixture
def container() -> Iterator[Callable[..., int]]:
    """Runs an image as strictly as it should be; gives the port."""
    made: list[str] = []

    def start(image: str, *options: str) -> int:
        made.append(
            run("docker", "run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
                "--publish", "127.0.0.1:0:8080", *options, image)
        )  # fmt: skip
        told = json.loads(run("docker", "inspect", made[-1]))[0]
        return int(told["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"])

    yield start
    for one in made:
        run("docker", "rm", "--force", one)


# ---- done when -----------------------------------------------------------------------------------


def test_flights_image_is_pulled_run_and_answers_as_the_process_does(
    flights: Built, pushed: str, container: Callable[..., int]
) -> None:
    images.require("engine", "skopeo")
    told = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{pushed}"))
    assert told["Digest"] == pushed.rpartition("@")[2]
    run("docker", "pull", "--quiet", pushed)
    (model,) = (flights.folder / ".treadle/models").iterdir()
    body = (model / "serving_input_example.json").read_bytes()
    answer, headers = ask(container(pushed), body)
    own = int(flights.status()["address"].rpartition(":")[2])
    assert answer == ask(own, body)[0]
    assert headers["x-model-digest"] == f"sha256:{model.name}"
    config = json.loads(run("docker", "image", "inspect", pushed))[0]["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["python", "-m", "treadle.operate"]
    assert config["Cmd"] == ["serve"]
    assert "TREADLE_MODEL=/models" in config["Env"]


def test_45_image_holds_neither_mlflow_nor_a_shell_script_nor_a_secret(
    flights: Built, tmp_path: Path
) -> None:
    images.require("umoci")
    flights("build", "--output", f"oci:{tmp_path / 'layout'}")
    names = set()
    index = json.loads((tmp_path / "layout/index.json").read_text())
    manifest = json.loads(blob(tmp_path, index["manifests"][0]["digest"]))
    for layer in manifest["layers"][1:]:
        data = blob(tmp_path, layer["digest"])
        data = gzip.decompress(data) if layer["mediaType"].endswith("gzip") else data
        import io

        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
                names.add(member.name)
    tops = {name.split("/")[3] for name in names if name.startswith("opt/treadle/site-packages/")}
    assert not {"mlflow", "click", "pydantic", "polars"} & tops
    assert {"treadle", "sklearn", "msgspec"} <= tops
    own = {n.split("/")[4] for n in names if n.startswith("opt/treadle/site-packages/treadle/")}
    assert own == {"__init__.py", "__pycache__", "base", "operate"}
    assert "models/MLmodel" in names


def blob(tmp_path: Path, digest: str) -> bytes:
    return (tmp_path / "layout/blobs/sha256" / digest[7:]).read_bytes()


def test_prediction_of_a_container_leads_back_to_the_data(
    flights: Built, pushed: str, container: Callable[..., int]
) -> None:
    images.require("engine", "skopeo")
    run("docker", "pull", "--quiet", pushed)
    (model,) = (flights.folder / ".treadle/models").iterdir()
    # The release is in the process's environment and never in the image.
    port = container(pushed, "--env", "TREADLE_RELEASE=1")
    _, headers = ask(port, (model / "serving_input_example.json").read_bytes())
    links = flights("lineage", headers["x-prediction-id"], "--json").json["links"]
    assert {"prediction", "release", "model", "run", "code", "data"} <= {
        link["kind"] for link in links
    }
    told = json.loads(
        run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{pushed}")
    )
    found = {link["kind"]: link for link in links}
    assert told["config"]["Labels"]["dev.treadle.model"] == found["model"]["facts"]["content"]
    assert told["config"]["Labels"]["dev.treadle.code"].startswith(f"sha256:{found['code']['id']}")


def test_what_is_attached_names_the_model_and_the_steps(
    flights: Built, pushed: str, address: str
) -> None:
    from treadle.clients.cache import Cache
    from treadle.clients.oci.reference import Reference
    from treadle.clients.oci.registry import Registry
    from treadle.code.cache import step_key
    from treadle.release import attest

    place = Registry(Reference.parse(pushed), cache=Cache(flights.cache))
    try:
        digest = pushed.rpartition("@")[2]
        found = {one.artifact_type: one for one in place.referrers(digest)}
        assert set(found) == {attest.SBOM, attest.PROVENANCE, attest.RELEASE}
        (layer,) = place.manifest(found[attest.PROVENANCE].digest).plain["layers"]
        with place.open_blob(layer["digest"], layer["size"]) as stream:
            statement = json.loads(stream.read())
    finally:
        place.close()
    steps = attest.steps_of(statement)
    assert {"model", "split"} <= set(steps)
    for name, told in steps.items():
        assert step_key(name, told["depends"]) == told["key"]


# ---- same inputs, same digest --------------------------------------------------------------------


def test_digest_is_the_same_from_another_checkout_umask_zone_language_user_and_cache(
    flights: Built, tmp_path: Path
) -> None:
    reference = flights("build", "--output", f"oci:{tmp_path / 'one'}").out.strip()
    other = Built(tmp_path / "another place")
    other.cache = tmp_path / "another cache"
    shutil.copytree(flights.folder, other.folder)
    program = (
        "import os, sys; os.umask(0o077); sys.argv[0] = 'treadle'\n"
        "from treadle.cli import main; sys.exit(main())"
    )
    import sys

    done = subprocess.run(
        [*another_user(tmp_path), sys.executable, "-c", program, "build", "--output",
         f"oci:{tmp_path / 'two'}"],
        cwd=other.folder, capture_output=True, text=True, check=False,
        env={**os.environ, "TREADLE_CACHE": str(other.cache), "TZ": "Asia/Tokyo", "LC_ALL": "POSIX",
             "HOME": str(tmp_path), "USER": "somebody", "UV_CACHE_DIR": str(tmp_path / "uv"),
             "PYTHONHASHSEED": "99"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().rpartition("@")[2] == reference.rpartition("@")[2]


def another_user(folder: Path) -> list[str]:
    """What makes a command one of `nobody`, who gets the folder; nothing where that takes root."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return []
    run("chown", "--recursive", "65534:65534", str(folder))
    # This user may read all (the checkout, this Python) and write what is its own.
    return [
        "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
        "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search",
    ]  # fmt: skip


def test_unchanged_image_sends_nothing(flights: Built, pushed: str, address: str) -> None:
    again = flights("build", "--output", f"{address}/flights", "--json").json
    assert again["reference"] == pushed
    assert (again["sent_bytes"], again["blobs"]) == (0, {})


def test_stdout_is_the_reference_and_nothing_else(
    flights: Built, pushed: str, address: str
) -> None:
    ran = flights("build", "--output", f"{address}/flights", "--explain")
    assert ran.out == f"{pushed}\n"
    assert "keep" in ran.err


# ---- everywhere ----------------------------------------------------------------------------------


def test_one_index_has_both_platforms_made_on_either(flights: Built, address: str) -> None:
    images.require("skopeo")
    other = flights.folder / "arm.yaml"
    assert not other.exists()
    layout = both_platforms(flights)
    ran = flights(
        "build", "--platform", "linux/amd64,linux/arm64", "--base", f"oci:{layout}",
        "--output", f"{address}/both", "--json",
    )  # fmt: skip
    told = json.loads(
        run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{ran.json['reference']}")
    )
    assert [m["platform"]["architecture"] for m in told["manifests"]] == ["amd64", "arm64"]
    for machine in ("amd64", "arm64"):
        config = json.loads(
            run("skopeo", "inspect", "--override-arch", machine, "--config", "--tls-verify=false",
                f"docker://{ran.json['reference']}")
        )  # fmt: skip
        assert config["architecture"] == machine


def both_platforms(flights: Built) -> Path:
    """A base for two platforms: the local one, and one with the same names for the other."""
    from treadle.base.image import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Platform
    from treadle.clients.oci.layout import Layout

    folder = flights.folder.parent / "both"
    if folder.is_dir():
        return folder
    shutil.copytree(base_image.layout(), folder)
    place = Layout(folder)
    here = place.manifest("latest")
    config = json.loads(place._path(here.plain["config"]["digest"]).read_bytes())
    entries = []
    for machine in ("amd64", "arm64"):
        own = Blob.of_bytes(json.dumps({**config, "architecture": machine}).encode(), OCI_CONFIG)
        place.put_blob(own)
        data = json.dumps({**here.plain, "config": own.descriptor.plain()}).encode()
        digest = place.put_manifest(data, OCI_MANIFEST, None)
        entries.append(Descriptor(OCI_MANIFEST, digest, len(data), Platform(machine)).plain())
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    place.put_manifest(json.dumps(index).encode(), OCI_INDEX, "latest")
    return folder


def test_file_is_taken_by_docker_load_and_by_skopeo(flights: Built, tmp_path: Path) -> None:
    images.require("engine", "skopeo")
    path = tmp_path / "image.tar"
    reference = flights("build", "--output", f"tar:{path}").out.strip()
    assert reference.startswith(f"tar:{path}@sha256:")
    told = json.loads(run("skopeo", "inspect", f"oci-archive:{path}"))
    assert told["Digest"] == reference.rpartition("@")[2]
    assert "Loaded image" in run("docker", "load", "--input", str(path))


def test_engine_that_has_the_lower_layers_gets_the_new_one_alone(flights: Built) -> None:
    images.require("engine")
    first = flights("build", "--output", "docker:treadle-test/flights:1", "--json").json
    again = flights("build", "--output", "docker:treadle-test/flights:1", "--json").json
    assert again["reference"] == first["reference"]
    assert again["sent_bytes"] == 0
    other = flights("build", "--output", "docker:treadle-test/flights:2", "--json").json
    assert other["sent_bytes"] < 1_000_000
    assert other["reference"] == first["reference"]


def test_dockerfile_makes_the_same_file_tree(flights: Built, tmp_path: Path) -> None:
    images.require("engine", "umoci", "skopeo")
    context = tmp_path / "context"
    flights("build", "--output", f"oci:{tmp_path / 'ours'}:1")  # the wheels are here after it
    flights("build", "--dockerfile", str(context))
    for wheel in (flights.cache / "wheels").rglob("*.whl"):
        shutil.copy(wheel, context / "wheels")
    run("skopeo", "copy", f"oci:{base_image.layout()}:latest", "docker-daemon:treadle-test/base:1")
    run("docker", "build", "--network", "none", "--build-arg", "BASE=treadle-test/base:1", "--tag",
        "treadle-test/by-dockerfile:1", str(context), env={**os.environ, "DOCKER_BUILDKIT": "0"})  # fmt: skip
    run(
        "skopeo",
        "copy",
        "docker-daemon:treadle-test/by-dockerfile:1",
        f"oci:{tmp_path / 'theirs'}:1",
    )
    trees = {}
    for name in ("ours", "theirs"):
        run("umoci", "unpack", "--image", f"{tmp_path / name}:1", str(tmp_path / f"{name}-tree"))
        trees[name] = tree(tmp_path / f"{name}-tree/rootfs")
    assert trees["ours"].keys() == trees["theirs"].keys()
    differing = {n for n, told in trees["ours"].items() if told != trees["theirs"][n]}
    # Another patch release of Python may write other bytecode; its names are the same.
    assert {n for n in differing if not n.endswith(".pyc")} == set()


def tree(root: Path) -> dict[str, tuple]:
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if not name.startswith(("opt", "models")):
            continue
        status = path.lstat()
        content = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        )
        mode = 0 if path.is_symlink() else status.st_mode
        found[name] = (mode, status.st_uid, status.st_gid, content)
    return found


def test_model_directory_alone_is_built_too(
    flights: Built, tmp_path: Path, container: Callable[..., int]
) -> None:
    images.require("engine")
    (model,) = (flights.folder / ".treadle/models").iterdir()
    shutil.copytree(model, tmp_path / "late-flights")
    image = flights(
        "build", str(tmp_path / "late-flights"), "--base", f"oci:{base_image.layout()}",
        "--output", "docker",
    ).out.strip()  # fmt: skip
    body = (model / "serving_input_example.json").read_bytes()
    assert len(ask(container(image), body)[0]["predictions"]) == 3


def test_training_image_trains_as_the_project_does(flights: Built, tmp_path: Path) -> None:
    images.require("engine")
    image = flights("build", "--for", "train", "--output", "docker").out.strip()
    done = run(
        "docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp:rw,size=1g", "--network", "none",
        "--volume", f"{flights.folder / 'data'}:/opt/treadle/project/data:ro",
        "--volume", f"{flights.folder / 'truth'}:/opt/treadle/project/truth:ro",
        "--env", "TREADLE_STATE=/tmp/state", "--env", "TREADLE_RECORDER=off", "--env", "HOME=/tmp",
        image, "train", "--json",
    )  # fmt: skip
    assert json.loads(done)["runs"][0]["verdict"]["outcome"] == "pass", done


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--base", "oci:absent"), 2, "no OCI image layout"),
        (("--base", "127.0.0.1:1/python"), 4, "cannot be reached"),
        (("--base", "NO SUCH"), 2, "names no image"),
        (("--platform", "windows/amd64"), 2, "no images for the platform"),
        (("--platform", "linux/arm64"), 3, "linux/amd64, and linux/arm64 is built"),
        (("--output", "127.0.0.1:1/x"), 4, "cannot be reached"),
        (("--output", "x@sha256:" + "0" * 64), 2, "by digest"),
        (("--output", "oci:data"), 2, "holds other files"),
        (("--release", "9"), 2, "no release 9"),
        (("--output", "kind"), 2, "there is no `kind` command"),
        (("absent",), 2, "no model directory"),
    ],
)
def test_what_cannot_be_built_is_said(
    flights: Built, arguments: tuple[str, ...], code: int, said: str
) -> None:
    if arguments[-1] == "kind" and shutil.which("kind"):
        pytest.skip("kind is here")
    assert said in flights("build", *arguments, code=code).err


def test_base_without_python_is_said_and_gets_the_one_that_is_named(
    flights: Built, tmp_path: Path, container: Callable[..., int]
) -> None:
    import sys

    images.require("engine")
    bare = f"oci:{base_image.layout('bare')}"
    ran = flights("build", "--base", bare, code=3)
    assert "has no Python" in ran.err
    if Path(sys.base_prefix) == Path("/usr"):
        pytest.skip("this machine's Python is tied to its place")
    other = Built(tmp_path / "flights")
    other.cache = flights.cache
    shutil.copytree(flights.folder, other.folder)
    other.edit("treadle.yaml", ("build: {", f"build: {{interpreter: {sys.base_prefix}, "))
    image = other("build", "--base", bare, "--output", "docker").out.strip()
    (model,) = (flights.folder / ".treadle/models").iterdir()
    body = (model / "serving_input_example.json").read_bytes()
    assert len(ask(container(image), body)[0]["predictions"]) == 3


def test_archive_of_docker_save_is_a_base(flights: Built, tmp_path: Path) -> None:
    images.require("engine", "skopeo")
    run("skopeo", "copy", f"oci:{base_image.layout()}:latest", "docker-daemon:treadle-test/base:2")
    run("docker", "save", "--output", str(tmp_path / "base.tar"), "treadle-test/base:2")
    run(
        "skopeo", "copy", f"oci:{base_image.layout()}:latest", f"oci-archive:{tmp_path / 'oci.tar'}"
    )
    for kind, name in (("docker-archive", "base.tar"), ("oci-archive", "oci.tar")):
        ran = flights(
            "build", "--base", f"{kind}:{tmp_path / name}", "--output", f"oci:{tmp_path / kind}"
        )
        told = json.loads(
            run(
                "skopeo",
                "inspect",
                "--config",
                f"oci:{tmp_path / kind}:{ran.out.strip()[-64:][:12]}",
            )
        )
        assert told["config"]["Cmd"] == ["serve"]


def test_tag_that_exists_with_other_content_is_kept_unless_forced(
    flights: Built, address: str
) -> None:
    (model,) = (flights.folder / ".treadle/models").iterdir()
    base = ("--base", f"oci:{base_image.layout()}")
    flights("build", str(model), *base, "--output", f"{address}/tagged:1")
    ran = flights("build", "--output", f"{address}/tagged:1", code=3)
    assert "the tag 1 exists with other content" in ran.err
    flights("build", "--output", f"{address}/tagged:1", "--force")


def test_dry_run_says_what_would_be_built_and_writes_nothing(
    flights: Built, tmp_path: Path
) -> None:
    project = Built(tmp_path / "flights")
    project.cache = flights.cache
    shutil.copytree(flights.folder, project.folder)
    (project.folder / "treadle.lock").unlink(missing_ok=True)
    ran = project("build", "--dry-run", "--for", "hub")
    assert "mlflow" in ran.out
    assert not (project.folder / "treadle.lock").exists()
    assert not (project.folder / ".treadle/images").exists()


def test_full_disk_leaves_nothing_half_done(flights: Built, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small))
    try:
        ran = flights("build", "--output", f"oci:{small / 'layout'}", code=1)
        assert "no space left" in ran.err
        assert not (small / "layout/index.json").exists()
    finally:
        run("umount", str(small))
