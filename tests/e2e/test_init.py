"""`treadle init`: a sample, a folder that has something, a workflow that really runs; and the unit."""

from __future__ import annotations

import configparser
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tests.e2e.conftest import Project
from tests.support.projects import PIPELINE, houses_csv, treadle


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path / "homes")
    project.folder.mkdir()
    yield project
    if (project.folder / "treadle.yaml").exists():
        project("down", code=None)


def free_port(project: Project) -> None:
    project.edit("treadle.yaml", ("port: 8080", "port: 0"))


def test_an_empty_folder_gets_a_sample_that_turns(folder: Project) -> None:
    ran = folder("init", "--yes")
    assert "because" in ran.err
    assert "made-up example" in ran.err
    assert "next: treadle plan" in ran.out
    written = {
        path.relative_to(folder.folder).as_posix()
        for path in folder.folder.rglob("*")
        if path.is_file()
    }
    assert {"treadle.yaml", "pipeline.py"} <= written
    assert not (folder.folder / ".treadle").exists()
    first = (folder.folder / "treadle.yaml").read_text().splitlines()[0]
    assert "$schema=.treadle/schema.json" in first
    free_port(folder)
    folder("plan")
    ran = folder("up")
    assert "release 1 of local" in ran.out
    assert (folder.folder / ".treadle" / "schema.json").is_file()
    sample = ran.out.split("next: treadle ")[1].split()
    folder(*sample)
    ran = folder("init", "--yes", code=2)
    assert "nothing to write" in ran.err


def test_a_folder_with_data_and_a_script_is_adopted_with_reasons(folder: Project) -> None:
    (folder.folder / "houses.csv").write_text(houses_csv())
    (folder.folder / "pipeline.py").write_text(PIPELINE)
    before = {p.name: p.read_bytes() for p in folder.folder.iterdir()}
    shown = folder("init", "--dry-run")
    assert "would write" in shown.out
    assert {p.name for p in folder.folder.iterdir()} == set(before)
    ran = folder("init", "--yes")
    assert "price" in ran.err
    assert "its functions: train, holdout, model" in ran.err
    assert {name: (folder.folder / name).read_bytes() for name in before} == before
    free_port(folder)
    assert "model()" in folder("plan").out
    ran = folder("up", code=None)
    assert ran.code in (0, 3, 5), ran
    assert "verdict" in ran.out


def test_a_file_that_exists_is_never_overwritten(folder: Project) -> None:
    (folder.folder / "houses.csv").write_text(houses_csv())
    (folder.folder / "pipeline.py").write_text(PIPELINE + "# mine\n")
    (folder.folder / ".gitignore").write_text("*.log")
    workflow = folder.folder / ".github" / "workflows" / "treadle.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text("# mine\n")
    ran = folder("init", "--yes", "--ci", "github")
    assert "treadle.yml exists and stays as it is" in ran.err
    assert workflow.read_text() == "# mine\n"
    assert (folder.folder / "pipeline.py").read_text() == PIPELINE + "# mine\n"
    assert (folder.folder / ".gitignore").read_text() == "*.log\n.treadle/\n"


def test_a_spec_with_mistakes_is_not_built_upon(folder: Project) -> None:
    (folder.folder / "treadle.yaml").write_text("mine: yes\n")
    ran = folder("init", "--yes", "--ci", "github", code=2)
    assert "treadle.yaml:1:1" in ran.err
    assert [path.name for path in folder.folder.iterdir()] == ["treadle.yaml"]


# ---- CI ------------------------------------------------------------------------------------------


def github_steps(text: str) -> dict[str, list[str]]:
    jobs = YAML(typ="safe").load(text)["jobs"]
    return {
        name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()
    }


def gitlab_steps(text: str) -> dict[str, list[str]]:
    found = YAML(typ="safe").load(text)
    before = found["default"]["before_script"]
    return {
        name: [*before, *job["script"]]
        for name, job in found.items()
        if isinstance(job, dict) and "script" in job
    }


SERVICES = {
    "github": (".github/workflows/treadle.yml", github_steps),
    "gitlab": (".gitlab-ci.yml", gitlab_steps),
}


@pytest.mark.parametrize("service", ["github", pytest.param("gitlab", marks=pytest.mark.slow)])
def test_the_workflow_runs_in_a_fresh_clone_and_never_begins_a_second_ledger(
    template: Path, tmp_path: Path, service: str
) -> None:
    origin = Project(tmp_path / "origin")
    shutil.copytree(template, origin.folder)
    origin("init", "--yes", "--ci", service)
    path, read = SERVICES[service]
    text = (origin.folder / path).read_text()
    assert len(text.splitlines()) <= 40
    jobs = read(text)
    assert set(jobs) == {"check", "release"}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=origin.folder, check=True)
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=origin.folder, check=True, text=True, capture_output=True
    ).stdout.split()
    assert path in tracked
    assert not [name for name in tracked if name.startswith(".treadle")]

    tools = tmp_path / "bin"  # `treadle` is this checkout's; what is installed already is not again
    tools.mkdir()
    (tools / "treadle").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m treadle "$@"\n'
    )
    (tools / "pip").write_text("#!/bin/sh\nexit 0\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "MLFLOW_"))}
    environ |= {
        "CI": "true",
        "PATH": f"{tools}:{environ['PATH']}",
        "TREADLE_RECORDER": "off",
        "GITHUB_ACTOR": "ada",
        "GITLAB_USER_LOGIN": "ada",
    }

    def run(clone: Path, steps: list[str]) -> tuple[int, str]:
        output = ""
        for step in steps:
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", step],
                cwd=clone,
                env=environ,
                text=True,
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            output += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, output
        return 0, output

    def clone(name: str) -> Path:
        subprocess.run(["git", "clone", "-q", str(origin.folder), str(tmp_path / name)], check=True)
        return tmp_path / name

    bare = clone("bare")
    code, output = run(bare, jobs["check"])
    assert code == 0, output
    assert "verdict pass" in output
    shutil.rmtree(bare / ".treadle")
    code, output = run(bare, jobs["release"])
    assert code == 4, output
    assert "no journal" in output
    assert not (bare / ".treadle").exists()
    keeper = clone("keeper")
    shutil.copytree(origin.folder / ".treadle", keeper / ".treadle")
    with open(keeper / "houses.csv", "a") as file:
        file.write(houses_csv(60, seed=9).split("\n", 1)[1])
    try:
        code, output = run(keeper, jobs["release"])
        assert code in (0, 5), output
        entries = Project(keeper).ledger()
        assert {e["by"] for e in entries} >= {"treadle"}
        assert [e for e in entries if e["kind"] == "promote"], "the ledger goes on"
        run_ = Project(keeper)("lineage", "--from-data", "houses", "--json").json["links"]
        newest = next(link["id"] for link in run_ if link["kind"] == "run")
        assert (
            "by ada" in Project(keeper)("explain", newest).out
            or "`treadle up` by ada" in Project(keeper)("explain", newest).out
        )
    finally:
        treadle(keeper, "down")


# ---- a service that turns the loop -----------------------------------------------------------------


def test_the_systemd_unit_is_one_that_systemd_reads(project: Project) -> None:
    text = project("service", "install", "--print", "--system", "systemd").out
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[1:] == ["-m", "treadle", "up", "--watch", "--existing", "--env", "local"]
    assert Path(command[0]).is_absolute()
    assert shlex.split(unit["Service"]["WorkingDirectory"]) == [str(project.folder)]
    assert "4" in unit["Service"]["RestartPreventExitStatus"].split()
    assert unit["Install"]["WantedBy"] == "default.target"
    if shutil.which("systemd-analyze"):
        path = project.folder / "treadle-houses.service"
        path.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", str(path)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert "treadle-houses" not in done.stderr, done


def test_the_launchd_file_is_a_property_list(project: Project) -> None:
    text = project("service", "install", "--print", "--system", "launchd").out
    found = plistlib.loads(text.strip().encode())
    assert found["ProgramArguments"][1:] == [
        "-m",
        "treadle",
        "up",
        "--watch",
        "--existing",
        "--env",
        "local",
    ]
    assert found["WorkingDirectory"] == str(project.folder)
    assert found["Label"].endswith("houses.local")
    assert found["RunAtLoad"] is True


def test_install_writes_the_unit_once_and_keeps_a_changed_one(
    project: Project, tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = project("service", "install", "--system", "systemd", env=home)
    assert "next: systemctl --user" in done.out
    path = tmp_path / "config" / "systemd" / "user" / "treadle-houses-local.service"
    assert path.is_file()
    project("service", "install", "--system", "systemd", env=home)
    path.write_text("# mine\n")
    assert "differs" in project("service", "install", "--system", "systemd", env=home, code=2).err
    assert path.read_text() == "# mine\n"
