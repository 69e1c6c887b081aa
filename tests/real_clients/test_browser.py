"""The page at `/` in a real browser: a person fills in the form, predicts and reads the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.real_clients import models
from tests.real_clients.conftest import Served
from tests.support import browser as browsers
from tests.support.browser import Browser

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def window(tool: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver, chromium = (tool(name, browsers.HOW.partition("-y ")[2])
                        for name in ("chromedriver", "chromium"))  # fmt: skip
    with browsers.browser(driver, chromium, tmp_path_factory.mktemp("browser")) as window:
        yield window


def fill(window: Browser, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            window.click(f"[data-name={name}] option[value={str(value).lower()}]")
        else:
            window.type(f"[data-name={name}]", str(value))


def test_a_person_fills_in_the_form_and_reads_the_answer_of_the_model(
    window: Browser, columns: Served, pipeline: Any, tmp_path: Path
) -> None:
    window.go(f"{columns.address}/")
    assert not window.text("#ids")
    assert window.text("h1") == "demo" and "Version 7." in window.text("header")
    row = {"carrier": "B\"6' ü", "day": 3, "distance": 1234, "temp": 41.5, "rain": False}
    fill(window, row)
    assert json.loads(window.run("return at('body').value")) == {
        "dataframe_split": {"columns": list(row), "data": [list(row.values())]}
    }
    window.click("#send")
    window.until("#status", r"^200 OK, [\d.]+ ms$")
    frame = pd.DataFrame([row]).astype({"day": "int32"})
    told = json.loads(window.text("#answer"))["predictions"]
    assert told == [pytest.approx(pipeline.predict_proba(frame)[0].tolist())]
    assert window.text("#prediction").startswith("local.7.abc.")
    assert "/invocations" in window.text("#curl") and "1234" in window.text("#curl")
    window.click("#copy")
    window.until("#copied", "Copied|Selected")
    # The policy let the page's own style and script run, and nothing else was wanted.
    assert window.complaints() == []
    assert (
        window.run("return getComputedStyle(document.querySelector('.fields')).display") == "grid"
    )
    window.picture(tmp_path / "page.png")


def test_what_is_no_number_is_marked_and_refused_in_words_never_sent_as_missing(
    window: Browser, columns: Served
) -> None:
    window.go(f"{columns.address}/")
    window.type("[data-name=distance]", "12x")
    marked = "return document.querySelector('[aria-invalid=true]').dataset.name"
    assert window.run(marked) == "distance"
    window.click("#send")
    window.until("#status", "^400 not predicted")
    assert "distance" in window.text("#answer") and "12x" not in window.text("#answer")
    window.type("[data-name=distance]", "12")
    assert window.run("return document.querySelector('[aria-invalid=true]')") is None
    window.click("#send")
    window.until("#status", "^200 OK")


def test_the_page_fits_a_phone(window: Browser, columns: Served) -> None:
    window.size(420, 900)
    window.go(f"{columns.address}/")
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    window.size(1000, 1200)


def test_a_model_of_tensors_is_asked_by_the_box_alone(window: Browser, linear: Served) -> None:
    window.go(f"{linear.address}/")
    assert window.run("return document.querySelectorAll('[data-name]').length") == 0
    window.type("#body", '{"inputs": [[1, 2, 4]]}')
    window.click("#send")
    window.until("#status", "^200 OK")
    (told,) = json.loads(window.text("#answer"))["predictions"]
    assert told["double"] == [2, 4, 8]
    assert told["total"] == pytest.approx((np.array([1, 2, 4]) @ models.WEIGHTS).item())
