"""The same image as a Dockerfile and a small context, for who wants (or must) use another builder.

Any builder takes it: no `--mount`, no `--link`, no syntax line. The wheels are named with their
hashes and downloaded by the base's pip; a base without pip, or a build without a network, finds them
in the context's folder `wheels/`. They are unpacked by the rules of build/wheel, not installed, so
that the file tree is the one of `treadle build` (where the base has another patch release of Python,
bytecode files may differ in their bytes). The model is copied last.

What is published as source alone, which `treadle build` refuses, is named in `sources.txt` and built
by pip in the first stage: its files are then what that build makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from treadle.base.image import Wheel
from treadle.build import bytecode, image
from treadle.build.image import ImagePlan
from treadle.build.wheel import TESTED

_INSTALL = "/tmp/treadle/install.py"  # noqa: S108 - in a stage of the build that nothing keeps
Context = dict[str, bytes | Path]
"""Path in the context → content, or the file that has it."""


def context(
    plan: ImagePlan,
    *,
    base: str | None,
    interpreter: str,
    wheels: Sequence[Wheel],
    sources: Mapping[str, Path],
    code: Mapping[str, Path],
    model: Mapping[str, Path],
    model_files: Mapping[str, str],
) -> Context:
    """The Dockerfile and all that it copies.

    `base` is the reference by digest, or None where the base is in no registry: then the build
    takes it as `--build-arg BASE=…`.
    """
    found: Context = {
        "Dockerfile": _dockerfile(
            plan,
            base,
            interpreter,
            bool(code),
            bool(model),
            [w.name for w in wheels if is_source(w)],
        ).encode(),
        "install.py": _install(interpreter, compiles=bytecode.possible(plan.python)).encode(),
        "requirements.txt": _requirements(
            [one for one in wheels if not is_source(one)], "--only-binary :all:"
        ).encode(),
        "sources.txt": _requirements([one for one in wheels if is_source(one)]).encode(),
        "wheels/README": b"Wheels that lie here are used instead of being downloaded.\n",
        **{f"site-packages/{name}": path for name, path in sources.items()},
        **{f"project/{name}": path for name, path in code.items()},
        **{f"models/{name}": path for name, path in model.items()},
    }
    if model:
        listed = json.dumps(dict(sorted(model_files.items())))
        found["model.json"] = listed.encode()
    return dict(sorted(found.items()))


def is_source(wheel: Wheel) -> bool:
    """Whether it is a source distribution, which only a Dockerfile can take."""
    return not wheel.filename.endswith(".whl")


def _dockerfile(
    plan: ImagePlan,
    base: str | None,
    interpreter: str,
    code: bool,
    model: bool,
    built: Sequence[str],
) -> str:
    process = plan.process
    argument = f"ARG BASE={base}" if base else (
        "# The base is in no registry: docker build --build-arg BASE=NAME .\nARG BASE"
    )  # fmt: skip
    lines = [
        f"# Written by `treadle build --dockerfile`: the {plan.purpose} image for {plan.platform}.",
        argument,
        "FROM ${BASE} AS packages",
        "USER 0",
        *_before(built),
        "COPY install.py requirements.txt sources.txt /tmp/treadle/",
        "COPY wheels /tmp/treadle/wheels",
        f"RUN {json.dumps([interpreter, _INSTALL, 'packages'])}",
        "COPY site-packages /tmp/treadle/site-packages",
        f"RUN {json.dumps([interpreter, _INSTALL, 'treadle'])}",
        "",
        "FROM ${BASE}",
        f"COPY --from=packages {image.ROOT} {image.ROOT}",
    ]
    if code:
        lines.append(f"COPY project {image.PROJECT}")
    told = image.labels(plan)
    lines += [
        f'ENV PATH="{image.ROOT}/bin:${{PATH}}" \\',
        f'    PYTHONPATH="{image.SITE_PACKAGES}" \\',
        '    PYTHONDONTWRITEBYTECODE="1" \\',
        '    PYTHONUNBUFFERED="1"',
        *(f"ENV {name}={json.dumps(value)}" for name, value in sorted(process.environment.items())),
        *(f"LABEL {name}={json.dumps(value)}" for name, value in sorted(told.items())),
        *(f"EXPOSE {port}" for port in process.ports),
        *_health(process.health),
        f"STOPSIGNAL {process.stop_signal}",
        f"WORKDIR {process.working_folder}",
        f"USER {process.user}",
        f"ENTRYPOINT {json.dumps(list(process.entrypoint))}",
        f"CMD {json.dumps(list(process.command))}",
    ]
    if model:
        lines += [
            f"COPY model.json {image.MODEL_FILES}",
            f"COPY models {image.MODELS}",
        ]
    return "\n".join(lines) + "\n"


def _before(built: Sequence[str]) -> list[str]:
    if not built:
        return []
    return [
        f"# Built from source: {', '.join(sorted(built))}. What that needs goes here, such as",
        "# RUN apt-get update && apt-get install --yes gcc libc6-dev",
    ]


def _health(command: Sequence[str]) -> list[str]:
    if not command:
        return []
    options = "--interval=10s --timeout=5s --start-period=300s --retries=3"
    return [f"HEALTHCHECK {options} CMD {json.dumps(list(command))}"]


def _requirements(wheels: Sequence[Wheel], *options: str) -> str:
    ordered = sorted(wheels, key=lambda one: one.name)
    lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}" for one in ordered]
    return "\n".join([*options, *lines]) + "\n"


def _install(interpreter: str, *, compiles: bool) -> str:
    """The script that runs in the build: only the standard library, and pip to download."""
    return (
        _SCRIPT.replace("@SITE@", image.SITE_PACKAGES)
        .replace("@INTERPRETER@", interpreter)
        .replace("@COMPILES@", repr(compiles))
        .replace("@TESTED@", repr(sorted(TESTED)))
        .replace("@PROGRAM@", repr(bytecode.PROGRAM))
    )


_SCRIPT = '''"""Runs within `docker build`: unpacks wheels, or our own source, with bytecode."""

import hashlib
import os
import struct
import subprocess
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
SITE = "@SITE@"
INTERPRETER = "@INTERPRETER@"
COMPILES = @COMPILES@
TESTED = @TESTED@
PROGRAM = @PROGRAM@
LENGTH = struct.Struct(">I")


def main(what):
    os.umask(0o022)
    if what == "packages":
        for package, wheel in sorted(wheels() + built()):
            unpack(package, wheel)
        os.makedirs(os.path.dirname(SITE) + "/bin", exist_ok=True)
        os.symlink(INTERPRETER, os.path.dirname(SITE) + "/bin/python")
    else:
        root = os.path.join(HERE, "site-packages")
        found = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    found[SITE + "/" + os.path.relpath(path, root)] = (file.read(), False)
        write(found)


def wheels():
    """The wheels that requirements.txt names, by their hashes."""
    with open(os.path.join(HERE, "requirements.txt")) as file:
        lines = [line.split() for line in file if "--hash=" in line]
    wanted = {line[1].partition("sha256:")[2]: line[0].partition("==")[0] for line in lines}
    there = by_hash(os.path.join(HERE, "wheels"))
    if wanted.keys() - there.keys():
        folder = os.path.join(HERE, "downloaded")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet",
             "--disable-pip-version-check", "-r", os.path.join(HERE, "requirements.txt"),
             "-d", folder],
            check=True,
        )
        there.update(by_hash(folder))
    absent = sorted(wanted[one] for one in wanted.keys() - there.keys())
    if absent:
        sys.exit("these wheels are missing: " + ", ".join(absent))
    return [(wanted[one], there[one]) for one in sorted(wanted, key=wanted.get)]


def built():
    """What sources.txt names, built by pip."""
    listed = os.path.join(HERE, "sources.txt")
    with open(listed) as file:
        if not file.read().strip():
            return []
    folder = os.path.join(HERE, "built")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--require-hashes", "--quiet",
         "--disable-pip-version-check", "-r", listed, "-w", folder],
        check=True,
    )
    return [
        (name.partition("-")[0].lower().replace("_", "-"), os.path.join(folder, name))
        for name in sorted(os.listdir(folder))
    ]


def by_hash(folder):
    found = {}
    for name in os.listdir(folder):
        if name.endswith(".whl"):
            with open(os.path.join(folder, name), "rb") as file:
                found[hashlib.sha256(file.read()).hexdigest()] = os.path.join(folder, name)
    return found


def unpack(package, path):
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or (package in TESTED and "/tests/" in member.filename):
                continue
            head, _, rest = member.filename.partition("/")
            name = SITE + "/" + member.filename
            if head.endswith(".data"):
                kind, _, below = rest.partition("/")
                if kind in ("purelib", "platlib"):
                    name = SITE + "/" + below
                elif kind == "data":
                    name = os.path.dirname(SITE) + "/" + below
                else:
                    continue
            runs = bool((member.external_attr >> 16) & 0o100)
            found[name] = (archive.read(member), runs)
    write(found)


def write(found):
    if COMPILES:
        for name, data in compiled(found).items():
            found.setdefault(name, (data, False))
    for name, (data, runs) in found.items():
        path = os.path.normpath(name)
        if not path.startswith(os.path.dirname(SITE) + "/"):
            sys.exit("a file would lie outside: " + name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o755 if runs else 0o644)


def compiled(found):
    names = sorted(name for name in found if name.endswith(".py"))
    if not names:
        return {}
    sent = [LENGTH.pack(len(names))]
    for name in names:
        text, source = name[1:].encode(), found[name][0]
        sent += [LENGTH.pack(len(text)), text, LENGTH.pack(len(source)), source]
    done = subprocess.run(
        [sys.executable, "-B", "-P", "-S", "-s", "-c", PROGRAM], input=b"".join(sent), cwd="/",
        stdout=subprocess.PIPE,
        check=True, env={"PYTHONHASHSEED": "0", "LC_ALL": "C", "PATH": ""},
    )
    made, position = {}, 0
    for name in names:
        (size,) = LENGTH.unpack_from(done.stdout, position)
        data = done.stdout[position + 4 : position + 4 + size]
        position += 4 + size
        if data:
            folder, _, file = name.rpartition("/")
            stem = file[: -len(".py")]
            made[f"{folder}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc"] = data
    return made


main(sys.argv[1])
'''
