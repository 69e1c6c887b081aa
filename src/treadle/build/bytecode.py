"""Bytecode for the files of a layer: the same on any machine that has the same Python.

Without it a container compiles every module at each start, since its file system is read-only: the
start takes twice as long. A fresh process compiles the files of one layer in the order of their
names with a fixed hash seed, because what `marshal` writes depends on what was compiled before
(cpython#129724). The files are marked as never to be checked against their source (PEP 552), so
no time stands in them.
"""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from collections.abc import Mapping

from treadle.base.errors import TreadleError

_LENGTH = struct.Struct(">I")
COMMAND = (sys.executable, "-B", "-P", "-S", "-s")
"""Not -I: with it Python ignores PYTHONHASHSEED too."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C", "PATH": ""}
PROGRAM = r"""
import struct, sys, warnings
from importlib._bootstrap_external import _code_to_hash_pyc
from importlib.util import source_hash
warnings.simplefilter("ignore")
length = struct.Struct(">I")
take, give = sys.stdin.buffer, sys.stdout.buffer
def read():
    return take.read(length.unpack(take.read(4))[0])
for _ in range(length.unpack(take.read(4))[0]):
    name, source = read().decode(), read()
    try:
        code = compile(source, "/" + name, "exec", dont_inherit=True, optimize=0)
        data = bytes(_code_to_hash_pyc(code, source_hash(source), False))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        data = b""
    give.write(length.pack(len(data)) + data)
"""


def tag() -> str:
    """What compiles here: bytecode is the same where this is the same."""
    return f"{sys.implementation.cache_tag} {platform.python_version()}"


def possible(python: str) -> bool:
    """Whether this interpreter makes bytecode for that minor version (`3.11`)."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return here == python and sys.implementation.name == "cpython"


def compiled(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Path of a module in the image → its bytecode file's path and bytes.

    A file that does not compile (a template, a module for another Python) has none, as with pip.
    """
    names = sorted(name for name in sources if name.endswith(".py"))
    if not names:
        return {}
    sent = [_LENGTH.pack(len(names))]
    for name in names:
        text = name.encode()
        sent += [_LENGTH.pack(len(text)), text, _LENGTH.pack(len(sources[name])), sources[name]]
    done = subprocess.run(
        [*COMMAND, "-c", PROGRAM], input=b"".join(sent), capture_output=True, check=False,
        cwd="/", env=ENVIRONMENT,
    )  # fmt: skip
    if done.returncode != 0:
        raise TreadleError(
            f"compiling {len(names)} modules failed: {done.stderr.decode(errors='replace')[-500:]}"
        )
    found, position = {}, 0
    for name in names:
        (size,) = _LENGTH.unpack_from(done.stdout, position)
        data = done.stdout[position + 4 : position + 4 + size]
        position += 4 + size
        if data:
            folder, _, file = name.rpartition("/")
            stem = file.removesuffix(".py")
            found[f"{folder}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc"] = data
    return found
