"""Every option of `serve`, read from the arguments and from the environment, in one place.

An option `--capture-rate` is also `TREADLE_CAPTURE_RATE`; an argument wins. An empty variable counts
as not set. What a variable or an argument cannot mean is a UsageError before anything is started,
and so is a variable that looks like an option misspelt: a limit that silently does not hold is worse
than a server that does not start.
"""
# ruff: noqa: RUF009 - `option` is dataclasses.field

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.clock import duration_s
from treadle.base.errors import UsageError
from treadle.operate.limits import Limits

PREFIX = "TREADLE_"
SAGEMAKER = Path("/opt/ml/model")
"""Where SageMaker unpacks a model before it runs `IMAGE serve` (its hosting contract)."""
_OTHERS = frozenset({"CLOCK", "CRASH", "RECORDER", "SPLIT", "STATE", "YAML", "TOKEN"})
"""Variables of Treadle that are no options of `serve`, or (the token) are read in a way of their own."""
_SERVICE = re.compile(r"(.*_)?(SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)")
"""What Kubernetes sets in every pod of a namespace that has a service named `treadle`."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


# ---- values --------------------------------------------------------------------------------------


def count(text: str) -> int:
    """A whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError("a number from 1 on")
    return number


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    number = int(text)
    if number < 0:
        raise ValueError("a number from 0 on")
    return number


def size(text: str) -> int:
    """Bytes: `1048576`, `64k`, `16M`, `2g`; a unit is a power of 1024."""
    found = re.fullmatch(r"(\d+)([kmg]?)i?b?", text.strip().lower())
    if found is None or int(found[1]) == 0:
        raise ValueError("a number of bytes such as 1048576, 512k, 64m or 2g")
    return int(found[1]) * _UNITS[found[2]]


def seconds(text: str) -> float:
    """A time: `2.5` (seconds), `500ms`, `1m30s`."""
    try:
        number = float(text)
    except ValueError:
        number = duration_s(text.strip())
    if not 0 <= number < math.inf:
        raise ValueError("a time such as 2.5 (seconds), 500ms or 1m30s")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1")
    return number


def port(text: str) -> int:
    """A TCP port; 0 takes any free one."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError("a number from 0 to 65535")
    return number


def port_or_none(text: str) -> int | None:
    """A TCP port; 0, `none` or `off`: no server."""
    return None if text.strip().lower() in ("none", "off", "") else port(text) or None


def yes(text: str) -> bool:
    """`yes`, `true`, `1`, `on`, or their opposites."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("yes or no")


def names(text: str) -> tuple[str, ...]:
    """Names between commas; a JSON list where a name has a comma in it."""
    if text.lstrip().startswith("["):
        found = json.loads(text)
        if not all(isinstance(name, str) for name in found):
            raise ValueError("a JSON list of names")
        return tuple(found)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def word(text: str) -> str:
    """A part of every prediction id, between dots: letters, digits, - and _."""
    if not _WORD.fullmatch(text):
        raise ValueError("1 to 64 letters, digits, - or _")
    return text


def label(text: str) -> str:
    """Text that may stand in a header: printable ASCII."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("printable ASCII characters")
    return text


def file(text: str) -> Path:
    """A path."""
    if "\0" in text:
        raise ValueError("a path")
    return Path(text)


def choice(*words: str) -> Callable[[str], str]:
    """One of some words."""

    def one(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(" or ".join(words))
        return text.strip().lower()

    return one


# ---- the options ---------------------------------------------------------------------------------


def option(kind: Callable[[str], Any], default: Any, words: str, **more: Any) -> Any:
    """A field that is an option: what it may be, what it is by default, and what it does."""
    return field(default=default, metadata={"kind": kind, "words": words, **more})


@dataclass(frozen=True)
class Given:
    """What a supervisor gives to a worker; all None where there is no supervisor."""

    fd: int | None = None
    """The listening socket."""
    status_fd: int | None = None
    """The worker writes JSON lines: ready, or why not; serving; draining."""
    lifeline_fd: int | None = None
    """A byte: begin to accept. Its end: the supervisor is gone."""
    counters_fd: int | None = None
    slot: int = 0
    """Shared counters, and the row that this worker writes."""
    compare_fd: int | None = None
    """What the version before answered to its input example (warmup.py)."""


@dataclass(frozen=True)
class Options:
    """What one server is to do. The same for each of its workers."""

    model: Path = option(file, Path(), "MLflow model directory", metavar="DIR")
    host: str = option(label, "127.0.0.1", "address to listen on")
    port: int = option(port, 8080, "0: any free port")
    workers: int = option(count, 1, "processes that share the port")
    http: str = option(choice("own", "uvicorn"), "own", "own or uvicorn")
    environment: str = option(word, "local", "first part of every prediction id")
    release: int = option(natural, 0, "second part of every prediction id, the model's version")
    instance: str | None = option(word, None, "third part of every prediction id; random")
    name: str = option(label, "model", "the model's name in V1 and V2")
    run: str = option(label, "", "the run that made it, for /version")
    content: str = option(label, "", "digest of the model directory, compared")
    image: str = option(label, "", "digest of the container image, told by every answer")
    files: Path | None = option(
        file, None, "a file {path: digest}: every file of the model is compared", metavar="JSON"
    )
    capture: Path | None = option(file, None, "keep requests for monitoring here", metavar="DIR")
    capture_rate: float = option(share, 1.0, "share of requests that are kept")
    capture_per_minute: int = option(natural, 6000, "at most, all workers together")
    capture_exclude: tuple[str, ...] = option(names, (), "columns that are not kept")
    capture_hash: tuple[str, ...] = option(names, (), "columns of which only a digest is kept")
    capture_most: int | None = option(size, None, "bytes that may wait there; more is dropped")
    capture_wait_s: float = option(seconds, 0.0, "at the end, until what waits is collected")
    trust_pickle: bool = option(yes, False, "load formats that can run code")
    threads: int | None = option(
        count, None, "of a prediction; the CPUs of the container by the workers"
    )
    token_file: Path | None = option(
        file, None, "every request must bear this token; or TREADLE_TOKEN"
    )
    tls_certificate: Path | None = option(file, None, "PEM, with its chain")
    tls_key: Path | None = option(file, None, "PEM; by default in the same file")
    grpc_port: int | None = option(port_or_none, None, "gRPC beside HTTP; none")
    listener: Path | None = option(
        file, None, "take the listening socket from who holds it here (`hold`)", metavar="SOCKET"
    )
    probe: Path | None = option(
        file, None, "answer health checks on this Unix socket too", metavar="SOCKET"
    )
    linger_s: float = option(seconds, 10.0, "idle connections stay open after a swap")
    stop_linger_s: float = option(seconds, 1.0, "idle connections stay open when told to end")
    start_timeout_s: float = option(seconds, 300.0, "a worker may take to load and warm")
    stuck_after_s: float = option(seconds, 30.0, "a silent worker is replaced")
    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)
    """From TREADLE_TOKEN or the token's file; never from an argument, which everybody can read."""
    given: Given = field(default_factory=Given)

    def open_at(self, address: str) -> bool:
        """Whether strangers reach this address, and neither a token nor TLS is asked for."""
        import ipaddress

        if self.token is not None or self.tls_certificate is not None:
            return False
        try:
            return not ipaddress.ip_address(address).is_loopback
        except ValueError:
            return address != "localhost"


_LIMITS = {
    "max_head": ("max_head_bytes", size, "request line and headers; more is 431"),
    "max_headers": ("max_headers", count, "header lines; more is 431"),
    "max_body": ("max_body_bytes", size, "a body, decompressed too; more is 413"),
    "max_rows": ("max_rows", count, "of one request; more is 400"),
    "max_depth": ("max_depth", count, "nesting of JSON; more is 400"),
    "max_queue": ("max_queue_requests", count, "requests that wait; the next is 503"),
    "max_queue_rows": ("max_queue_rows", count, "rows that wait; the next is 503"),
    "max_batch_rows": ("max_batch_rows", count, "of one call of the model"),
    "deadline": ("deadline_s", seconds, "of a request; later is 504"),
    "head_timeout": ("head_timeout_s", seconds, "for a request's headers; later is 408"),
    "body_timeout": ("body_timeout_s", seconds, "for its body; later is 408"),
    "keep_alive": ("keep_alive_s", seconds, "an idle connection stays open"),
    "max_connections": ("max_connections", count, "open at a time"),
}
"""Option → field of Limits."""


@dataclass(frozen=True)
class _Setting:
    """One option, however it is given."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    words: str
    metavar: str | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def parse(self, text: str, source: str) -> Any:
        try:
            return self.kind(text)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{source}: {text!r} is not what it should be", hint=self._wanted(error)
            ) from None

    def _wanted(self, error: Exception) -> str:
        said = str(error)
        # Python's own words (int(), json) say what it read, not what it should have been.
        return said if said.startswith(("a ", "yes", "own", "print", "1 to")) else self.kind_words

    @property
    def kind_words(self) -> str:
        words = (self.kind.__doc__ or self.words).split(":")[0].rstrip(".")
        return words[0].lower() + words[1:]


def settings_of(section: Any) -> dict[str, _Setting]:
    """The options among a dataclass's fields."""
    found = {}
    for one in dataclasses.fields(section):
        if one.metadata:
            name = one.name.removesuffix("_s")
            found[one.name] = _Setting(name, one.metadata["kind"], one.default,
                                       one.metadata["words"], one.metadata.get("metavar"))  # fmt: skip
    return found


def _settings() -> dict[str, _Setting]:
    found = settings_of(Options)
    limits = {one.name: one.default for one in dataclasses.fields(Limits)}
    for name, (target, kind, words) in _LIMITS.items():
        found[target] = _Setting(name, kind, limits[target], words, None)  # fmt: skip
    return found


_METAVARS: dict[Callable[[str], Any], str] = {count: "N", natural: "N", size: "BYTES", seconds: "TIME", share: "SHARE",
             port: "PORT", port_or_none: "PORT", names: "A,B", file: "FILE"}  # fmt: skip
SETTINGS = _settings()
"""Field of Options or Limits → its option."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `serve`; each is None where it is not given."""
    for target, setting in SETTINGS.items():
        if target == "model":
            parser.add_argument("model", nargs="?", help=f"{setting.words} [{setting.variable}]")
            continue
        add_argument(parser, target, setting)
    for one in dataclasses.fields(Given):
        parser.add_argument("--" + one.name.replace("_", "-"), default=one.default,
                            type=int, help=argparse.SUPPRESS)  # fmt: skip


def add_argument(parser: argparse.ArgumentParser, target: str, setting: _Setting) -> None:
    """One option as an argument."""
    default = _shown(setting)
    words = setting.words + (f" ({default})" if default else "")
    if setting.kind is yes:
        parser.add_argument(setting.flag, dest=target, action=argparse.BooleanOptionalAction,
                            default=None, help=words)  # fmt: skip
    else:
        parser.add_argument(setting.flag, dest=target, default=None, help=words,
                            metavar=setting.metavar or _METAVARS.get(setting.kind, "TEXT"))  # fmt: skip


def _shown(setting: _Setting) -> str:
    value = setting.default
    if value is None or value in ((), "") or setting.kind is yes:
        return ""
    if setting.kind is size:
        return f"{value >> 20}m" if value >= 1 << 20 else f"{value >> 10}k"
    return f"{value:g} s" if setting.kind is seconds else str(value)


def read(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    """The options of a server. UsageError names what cannot be."""
    values = given_values(SETTINGS, arguments, environ)
    values = _model(values, environ)
    limits = {name: values.pop(name) for name, *_ in _LIMITS.values() if name in values}
    given = {one.name: getattr(arguments, one.name) for one in dataclasses.fields(Given)}
    options = Options(**values, limits=Limits(**limits), given=Given(**given))
    _consistent(options)
    return dataclasses.replace(options, token=_token(options, environ))


def given_values(
    settings: Mapping[str, _Setting], arguments: argparse.Namespace, environ: Mapping[str, str]
) -> dict[str, Any]:
    """What arguments and variables say of some options; an argument wins."""
    _misspelt(environ, settings)
    values: dict[str, Any] = {}
    for target, setting in settings.items():
        told = getattr(arguments, target)
        if told is not None:
            values[target] = told if isinstance(told, bool) else setting.parse(told, setting.flag)
            continue
        text = environ.get(setting.variable, "")
        # Kubernetes and Docker set NAME_PORT=tcp://… for a service of this name: no option of ours.
        if text and not (target == "port" and text.startswith("tcp://")):
            values[target] = setting.parse(text, setting.variable)
    return values


def _model(values: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Where no model is named: SageMaker's, which also expects to reach the port from outside."""
    if "model" in values:
        return values
    if not SAGEMAKER.is_dir():
        raise UsageError("which model?", hint="name the model directory, or set TREADLE_MODEL")
    bound = environ.get("SAGEMAKER_BIND_TO_PORT", "")
    implied: dict[str, Any] = {"host": "0.0.0.0"}
    if bound:
        implied["port"] = SETTINGS["port"].parse(bound, "SAGEMAKER_BIND_TO_PORT")
    return {"model": SAGEMAKER, **implied, **values}


def _misspelt(environ: Mapping[str, str], settings: Mapping[str, _Setting]) -> None:
    both = (*SETTINGS.values(), *settings.values())  # an image's variables suit all its commands
    known = {setting.variable.removeprefix(PREFIX) for setting in both}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        if name in known or name in _OTHERS or _SERVICE.fullmatch(variable):
            continue
        if environ[variable].startswith(("tcp://", "udp://")):
            continue  # a service too: NAME_PORT
        bare = re.sub(r"_(BYTES|S|SECONDS|MS|ROWS|REQUESTS)$", "", name.upper())
        close = [bare] if bare in known else difflib.get_close_matches(
            name.upper(), [*known, *_OTHERS], n=1, cutoff=0.75
        )  # fmt: skip
        if close:
            raise UsageError(
                f"{variable} is no setting", hint=f"is {PREFIX}{close[0]} meant? else unset it"
            )


def _consistent(options: Options) -> None:
    if options.tls_key is not None and options.tls_certificate is None:
        raise UsageError("--tls-key without a certificate", hint="add --tls-certificate FILE")
    for name in ("files", "tls_certificate", "tls_key"):
        path = getattr(options, name)
        if path is not None and not os.access(path, os.R_OK):
            raise UsageError(f"{SETTINGS[name].flag}: {path} cannot be read")
    if options.stuck_after_s < 2:
        raise UsageError(
            "--stuck-after: a worker tells once a second that it lives", hint="2 seconds or more"
        )


def _token(options: Options, environ: Mapping[str, str]) -> str | None:
    """The bearer token. An empty one is an error: somebody believes that there is one."""
    told = environ.get(PREFIX + "TOKEN")
    if options.token_file is not None:
        if told is not None:
            raise UsageError("both TREADLE_TOKEN and a token file are set", hint="which one holds?")
        try:
            told = options.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file: {options.token_file} cannot be read ({type(error).__name__})") from None  # fmt: skip
        source = f"--token-file: {options.token_file}"
    else:
        source = "TREADLE_TOKEN"
    if told is None:
        return None
    # RFC 6750, section 2.1: what may stand behind `Bearer`.
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", told):
        raise UsageError(f"{source} is {'no token' if told else 'empty'}",
                         hint="letters, digits and ._~+/- (openssl rand -hex 32)")  # fmt: skip
    return told
