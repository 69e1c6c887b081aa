"""Where rows come from and scores go: a folder, a claim that a pod has mounted, an object store.

`claim://NAME/PATH` is the folder NAME below the claims' mount, `s3://BUCKET/PATH` an object by
pyarrow's client; everything else is a path here. An output appears at once and whole: it is written
under another name, and renamed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from treadle.base.errors import (
    DataRefused,
    DiskFull,
    MissingExtra,
    Refused,
    TreadleError,
    Unreachable,
    UsageError,
)
from treadle.base.spec import REMOTE

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_PIECE = 1 << 22
_LEFT = re.compile(r"\..+\.parquet\.[0-9a-f]{8}\.next")
_OLD_S = 86400.0
"""A half-written file that is older belongs to nobody who still writes."""
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Source:
    """A file to read: where it lies, and what it is called in messages."""

    path: str
    shown: str
    filesystem: FileSystem

    @property
    def size_bytes(self) -> int:
        """Its size now. UsageError: it is not there."""
        from pyarrow.fs import FileType

        (info,) = self.filesystem.get_file_info([self.path])
        if info.type != FileType.File:
            raise UsageError(f"{self.shown}: no such file")
        return int(info.size)

    def open(self) -> Any:
        """To read anywhere in it, as it is."""
        return self.filesystem.open_input_file(self.path)

    def stream(self) -> Any:
        """To read once; what is compressed by its name is decompressed."""
        return self.filesystem.open_input_stream(self.path)

    def digest(self) -> str:
        """Of its bytes."""
        found = hashlib.sha256()
        with self.open() as file:
            while piece := file.read(_PIECE):
                found.update(piece)
        return f"sha256:{found.hexdigest()}"


class Sink(Protocol):
    """One output file that is not there yet."""

    shown: str
    filesystem: FileSystem
    temporary: str
    """Where it is written before it has its name."""

    def exists(self) -> bool:
        """Whether something has its name already."""

    def begin(self) -> None:
        """Make room for it."""

    def commit(self, *, force: bool) -> int:
        """Give it its name; its size. Refused: another has it by now, and no `force`."""

    def discard(self) -> None:
        """Remove what was written, if anything was."""

    def failed(self, error: OSError) -> Exception:
        """What an error of writing is called."""


@dataclass(frozen=True)
class Store:
    """How the object store is reached; keys come from the environment (AWS_…)."""

    endpoint: str | None = None
    region: str | None = None
    _made: dict[str, FileSystem] = field(default_factory=dict, compare=False, repr=False)

    def of(self, bucket: str) -> FileSystem:
        """The file system that has a bucket."""
        if bucket not in self._made:
            self._made[bucket] = self._make(bucket)
        return self._made[bucket]

    def _make(self, bucket: str) -> FileSystem:
        try:
            from pyarrow.fs import S3FileSystem, resolve_s3_region
        except ImportError:
            raise MissingExtra("pyarrow with S3", "", "s3://") from None
        more: dict[str, Any] = {"connect_timeout": 10.0, "request_timeout": 60.0}
        if self.endpoint:
            scheme, _, host = self.endpoint.partition("://")
            more |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
        with away(f"s3://{bucket}"):
            if self.region or self.endpoint:
                more["region"] = self.region or "us-east-1"
            else:
                more["region"] = resolve_s3_region(bucket)
            return S3FileSystem(**more)


@contextmanager
def away(shown: str) -> Iterator[None]:
    """Errors of reading, in our words."""
    try:
        yield
    except OSError as error:
        raise told(error, shown) from None


def told(error: OSError, shown: str) -> Exception:
    """What an error of a file or of the object store is called."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{shown}: no such file")
    if error.errno is not None:
        return TreadleError(f"{shown}: {error.strerror or error}")
    said = str(error)
    if not re.search(r"AWS|[Bb]ucket|curlCode|S3", said):
        return DataRefused(f"{shown} cannot be read: {said.splitlines()[0]}")
    if re.search(
        r"ACCESS_DENIED|response code 40[13]|Forbidden|INVALID_ACCESS_KEY|SIGNATURE", said
    ):
        return Refused(
            f"{shown}: not allowed by the object store",
            hint="may the keys read the input and write the output?",
        )
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|not find region|response code 404", said):
        return UsageError(f"{shown}: there is no such bucket")
    return Unreachable(f"{shown}: {said.splitlines()[0]}")


@dataclass(frozen=True)
class Places:
    """Finds inputs and outputs by their names."""

    claims: Path = Path("/claims")
    """Where a pod has its claims mounted, each by its name."""
    store: Store = field(default_factory=Store)

    def find(self, pattern: str) -> list[Source]:
        """The files that a path or glob names, sorted. UsageError if there are none."""
        match = REMOTE.fullmatch(pattern)
        if match is not None and match["kind"] == "s3":
            found = self._objects(match["name"], match["path"])
        elif match is not None:
            self._mounted(match["name"])
            root = os.fspath(self.claims / match["name"])
            found = [
                local(f"{root}/{path}", f"claim://{match['name']}/{path}")
                for path in _glob(match["path"], root)
            ]
        else:
            found = [local(path) for path in _glob(pattern, None)]
        if not found:
            raise UsageError(
                f"{pattern}: no such file", hint="give a Parquet, CSV or JSON-lines file"
            )
        return found

    def sink(self, output: str, default: str) -> Sink:
        """The file that `output` names; in a folder it is called `default`."""
        match = REMOTE.fullmatch(output)
        path = output if match is None else match["path"]
        folder = path.endswith("/") or path == "" or not os.path.splitext(path)[1]
        if match is not None and match["kind"] == "s3":
            key = f"{match['name']}/{_within(path, default) if folder else path}"
            _parquet(key)
            return _Object(f"s3://{key}", self.store.of(match["name"]), key)
        if match is not None:
            self._mounted(match["name"])
            path = _within(path, default) if folder else path
            _parquet(path)
            return _File(f"claim://{match['name']}/{path}", str(self.claims / match["name"] / path))
        if folder or os.path.isdir(path):
            path = os.path.join(path, default)
        _parquet(path)
        return _File(path, path)

    def _mounted(self, claim: str) -> None:
        if not (self.claims / claim).is_dir():
            raise UsageError(
                f"the claim {claim} is not mounted at {self.claims / claim}",
                hint="claim:// is for pods of a batch environment; --claims names another folder",
            )

    def _objects(self, bucket: str, path: str) -> list[Source]:
        from pyarrow.fs import FileSelector, FileType

        filesystem = self.store.of(bucket)
        shown = f"s3://{bucket}"
        with away(f"{shown}/{path}"):
            if _WILD.search(path) is None:
                (info,) = filesystem.get_file_info([f"{bucket}/{path}"])
                there = info.type == FileType.File
                return [Source(f"{bucket}/{path}", f"{shown}/{path}", filesystem)] if there else []
            fixed = path[: (_WILD.search(path) or re.match("", path)).start()]  # type: ignore[union-attr]
            base = f"{bucket}/{fixed.rpartition('/')[0]}".rstrip("/")
            listed = filesystem.get_file_info(
                FileSelector(base, recursive=True, allow_not_found=base != bucket)
            )
        rule = re.compile(translated(f"{bucket}/{path}"))
        names = sorted(
            info.path for info in listed if info.type == FileType.File and rule.fullmatch(info.path)
        )
        return [Source(name, f"s3://{name}", filesystem) for name in names]


def local(path: str | Path, shown: str | None = None) -> Source:
    """A file of this machine."""
    from pyarrow.fs import LocalFileSystem

    text = os.fspath(path)
    return Source(text, shown or text, LocalFileSystem())


def translated(pattern: str) -> str:
    """A glob as a regular expression: `*` within a folder, `**` through folders, none hidden."""
    found = ""
    for number, part in enumerate(pattern.split("/")):
        if part == "**":
            found += r"(?:(?!\.)[^/]+/)*"
            continue
        hidden = "" if part.startswith(".") or number == 0 else r"(?!\.)"
        found += hidden + _part(part) + "/"
    return found.removesuffix("/") if not pattern.endswith("**") else found + r"(?!\.)[^/]+"


def _part(part: str) -> str:
    found, at = "", 0
    while at < len(part):
        letter = part[at]
        end = part.find("]", at + 2) if letter == "[" else -1
        if letter == "*":
            found += "[^/]*"
        elif letter == "?":
            found += "[^/]"
        elif end != -1:
            inner = part[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner.startswith("!") else inner.replace("^", "\\^")
            found += f"[{inner}]"
            at = end
        else:
            found += re.escape(letter)
        at += 1
    return found


def _glob(pattern: str, root: str | None) -> list[str]:
    whole = pattern if root is None else f"{root}/{pattern}"
    if os.path.isfile(whole):  # a file whose name looks like a glob is a file
        return [pattern]
    found = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted(
        name for name in found if os.path.isfile(name if root is None else f"{root}/{name}")
    )


def _within(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}".lstrip("/")


def _parquet(name: str) -> None:
    if not name.endswith(".parquet"):
        raise UsageError(f"{name}: scores are written as Parquet", hint="name it ….parquet")


# ---- outputs -------------------------------------------------------------------------------------


class _File:
    """A file of this machine, or on a claim."""

    def __init__(self, shown: str, path: str) -> None:
        from pyarrow.fs import LocalFileSystem

        self.shown, self.path = shown, path
        self.filesystem = LocalFileSystem()
        folder, name = os.path.split(path)
        self.temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.next")

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def begin(self) -> None:
        folder = Path(self.path).parent
        with self._words():
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".*.next"):  # of one that was killed: nobody else would
                if _LEFT.fullmatch(left.name) and left.stat().st_mtime < time.time() - _OLD_S:
                    left.unlink(missing_ok=True)

    def commit(self, *, force: bool) -> int:
        with self._words():
            with open(self.temporary, "rb") as file:
                os.fsync(file.fileno())
            if force:
                os.replace(self.temporary, self.path)
            else:
                self._link()
            return os.path.getsize(self.path)

    def _link(self) -> None:
        """Give the finished file its name without ever replacing another that appeared meanwhile."""
        try:
            os.link(self.temporary, self.path)
        except FileExistsError:
            words = f"{self.shown} has appeared meanwhile"
            raise Refused(words, hint="--force replaces it") from None
        except OSError:  # a file system without hard links
            os.replace(self.temporary, self.path)

    def discard(self) -> None:
        Path(self.temporary).unlink(missing_ok=True)

    @contextmanager
    def _words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.failed(error) from None

    def failed(self, error: OSError) -> Exception:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"no space left for {self.shown}; nothing was written")
        if isinstance(error, PermissionError) or error.errno in (errno.EACCES, errno.EROFS):
            return TreadleError(f"no permission to write {self.shown}")
        return error


class _Object:
    """An object: it is there when its upload is complete, and then renamed by the store."""

    def __init__(self, shown: str, filesystem: FileSystem, key: str) -> None:
        self.shown, self.filesystem, self.key = shown, filesystem, key
        folder, _, name = key.rpartition("/")
        self.temporary = f"{folder}/.{name}.{os.urandom(4).hex()}.next"

    def exists(self) -> bool:
        from pyarrow.fs import FileType

        with away(self.shown):
            return bool(self.filesystem.get_file_info([self.key])[0].type == FileType.File)

    def begin(self) -> None:
        """Folders are only names here."""

    def commit(self, *, force: bool) -> int:
        if not force and self.exists():
            words = f"{self.shown} has appeared meanwhile"
            raise Refused(words, hint="--force replaces it")
        with away(self.shown):
            self.filesystem.move(self.temporary, self.key)
            return int(self.filesystem.get_file_info([self.key])[0].size)

    def discard(self) -> None:
        from pyarrow.fs import FileType

        with away(self.shown):
            if self.filesystem.get_file_info([self.temporary])[0].type == FileType.File:
                self.filesystem.delete_file(self.temporary)

    def failed(self, error: OSError) -> Exception:
        return told(error, self.shown)
