"""Options of `serve`: an argument and a variable mean the same, and what cannot be is said."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.errors import UsageError
from treadle.operate import options
from treadle.operate.limits import Limits
from treadle.operate.options import SETTINGS, Options


def read(*arguments: str, **environ: str) -> Options:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.read(parser.parse_args(arguments), environ)


_texts = {
    options.count: st.integers(1, 10**6).map(str),
    options.natural: st.integers(0, 10**6).map(str),
    options.size: st.tuples(st.integers(1, 9999), st.sampled_from(["", "k", "M", "GiB"])).map(
        lambda pair: f"{pair[0]}{pair[1]}"
    ),
    options.seconds: st.one_of(
        st.floats(2, 1e6).map(str), st.sampled_from(["2500ms", "1m30s", "2h", "3"])
    ),
    options.share: st.floats(0, 1).map(str),
    options.port: st.integers(0, 65535).map(str),
    options.port_or_none: st.sampled_from(["none", "off", "0", "9000"]),
    options.yes: st.sampled_from(["yes", "no", "TRUE", "0"]),
    options.names: st.sampled_from(["a,b", '["a,b", "c"]', " a , b ", "customer_id"]),
    options.word: st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True),
    options.label: st.from_regex(r"[A-Za-z0-9:][ -~]{0,20}", fullmatch=True),
    options.file: st.just("/dev/null"),
}
_free = {name: one for name, one in SETTINGS.items() if name != "tls_key"}


@given(st.sampled_from(sorted(_free)), st.data())
@settings(max_examples=300, deadline=None)
def test_an_argument_and_a_variable_mean_the_same(name: str, data: st.DataObject) -> None:
    setting = SETTINGS[name]
    text = data.draw(_texts.get(setting.kind, st.sampled_from(["own", "uvicorn"])))
    if name == "token_file":
        return  # it is read at once: below
    told: list[str] = [f"{setting.flag}={text}"]
    if setting.kind is options.yes:
        told = [setting.flag if options.yes(text) else "--no" + setting.flag[1:]]
    if name == "model":
        told = [text]
    base = {} if name == "model" else {"TREADLE_MODEL": "/m"}
    by_argument = read(*told, **base)
    by_variable = read(**base, **{setting.variable: text})
    assert by_argument == by_variable
    holder: Any = by_argument.limits if hasattr(Limits(), name) else by_argument
    assert getattr(holder, name) == setting.kind(text)


def test_every_limit_is_an_option_and_every_default_is_that_of_the_class() -> None:
    assert {one.name for one in dataclasses.fields(Limits)} <= set(SETTINGS)
    assert read("/m").limits == Limits()
    found = read("/m")
    assert found == Options(model=Path("/m"))
    assert (found.host, found.port, found.workers, found.http) == ("127.0.0.1", 8080, 1, "own")


def test_an_argument_wins_over_a_variable_and_an_empty_variable_is_none() -> None:
    found = read("/m", "--port", "1", TREADLE_PORT="2", TREADLE_WORKERS="3", TREADLE_RELEASE="")
    assert (found.port, found.workers, found.release) == (1, 3, 0)


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ([], {}, "which model"),
        (["/m", "--port", "70000"], {}, r"--port: '70000'.*0 to 65535"),
        (["/m", "--workers", "0"], {}, "--workers: '0'.*from 1"),
        (["/m", "--workers", "two"], {}, "--workers: 'two'.*whole number"),
        (["/m"], {"TREADLE_MAX_BODY": "1 potato"}, "TREADLE_MAX_BODY.*bytes"),
        (["/m"], {"TREADLE_DEADLINE": "nan"}, "TREADLE_DEADLINE.*a time"),
        (["/m"], {"TREADLE_TRUST_PICKLE": "maybe"}, "TREADLE_TRUST_PICKLE.*yes or no"),
        (["/m"], {"TREADLE_WORKRES": "2"}, "TREADLE_WORKRES is no setting.*TREADLE_WORKERS"),
        (["/m"], {"TREADLE_MAX_BODY_BYTES": "2"}, "is no setting.*TREADLE_MAX_BODY"),
        (["/m", "--environment", "a.b"], {}, "--environment.*letters"),
        (["/m", "--name", "a\r\nset-cookie: b"], {}, "--name.*printable"),
        (["/m", "--http", "h2o"], {}, "--http.*own or uvicorn"),
        (["/m", "--capture-rate", "1.5"], {}, "--capture-rate.*0 to 1"),
        (["/m", "--tls-key", "/dev/null"], {}, "--tls-key without a certificate"),
        (["/m", "--files", "/nowhere"], {}, "--files: /nowhere cannot be read"),
        (["/m", "--stuck-after", "1"], {}, "--stuck-after"),
        (["/m"], {"TREADLE_TOKEN": ""}, "TREADLE_TOKEN is empty"),
        (["/m"], {"TREADLE_TOKEN": "two words"}, "TREADLE_TOKEN is no token"),
        (["/m", "--token-file", "/nowhere"], {}, "--token-file.*cannot be read"),
        (["/m", "--token-file", "/dev/null"], {}, "--token-file: /dev/null is empty"),
        (["/m", "--token-file", "/dev/null"], {"TREADLE_TOKEN": "a"}, "both"),
    ],
)
def test_what_cannot_be_is_said_with_what_it_should_be(
    arguments: list[str], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as raised:
        read(*arguments, **environ)
    text = f"{raised.value.message} {raised.value.hint}"
    import re

    assert re.search(said, text), text
    assert "two words" not in text  # a token is in no message


def test_variables_of_others_are_left_alone() -> None:
    found = read(
        "/m",
        TREADLE_CLOCK="/now",
        TREADLE_STATE="x",
        TREADLE_PORT="tcp://10.0.0.7:8080",
        TREADLE_PORT_8080_TCP="tcp://10.0.0.7:8080",
        TREADLE_PORT_8080_TCP_ADDR="10.0.0.7",
        TREADLE_SERVICE_HOST="10.0.0.7",
        TREADLE_SERVICE_PORT_HTTP="8080",
        TREADLE_HUB_PORT="tcp://10.0.0.8:80",
        TREADLE_FLIGHTS_API="of somebody else",
        PORT="1",
    )
    assert found == Options(model=Path("/m"))


def test_45_a_token_comes_from_its_file_or_its_variable_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret=\n")
    by_file = read("/m", "--token-file", str(tmp_path / "token"))
    assert by_file.token == read("/m", TREADLE_TOKEN="s3cret=").token == "s3cret="
    assert "s3cret" not in repr(by_file)


def test_open_is_what_strangers_reach_without_token_and_tls() -> None:
    for address in ("127.0.0.1", "127.8.8.8", "localhost", "::1"):
        assert not read("/m").open_at(address)
    for address in ("0.0.0.0", "::", "10.0.0.1", "model.example"):
        assert read("/m").open_at(address)
        assert not read("/m", TREADLE_TOKEN="a").open_at(address)
        assert not read("/m", "--tls-certificate", "/dev/null").open_at(address)


def test_sagemaker_names_no_model_and_reaches_the_port_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "SAGEMAKER", tmp_path)
    found = read(SAGEMAKER_BIND_TO_PORT="8081")
    assert (found.model, found.host, found.port) == (tmp_path, "0.0.0.0", 8081)
    assert read().port == 8080
    told = read(TREADLE_HOST="10.1.1.1", TREADLE_PORT="1", SAGEMAKER_BIND_TO_PORT="8081")
    assert (told.host, told.port) == ("10.1.1.1", 1)
    assert read("/m").host == "127.0.0.1"


def test_a_wrong_variable_ends_the_process_with_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "treadle.operate", "serve", "/m"],
        env={"TREADLE_PORT": "eighty", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "TREADLE_PORT" in done.stderr
    assert "Traceback" not in done.stderr
