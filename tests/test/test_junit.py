from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from treadle.base.records import GateResult, Verdict
from treadle.test.junit import to_junit


def verdict(*gates: GateResult) -> Verdict:
    return Verdict("refuse", "sha256:m", None, "sha256:h", gates, {"roc_auc": 0.7}, rows=10)


def test_each_gate_is_a_case_and_only_what_did_not_pass_fails() -> None:
    suite = ET.fromstring(to_junit(verdict(
        GateResult("leak", "pass", None, None, text="fine"),
        GateResult("roc_auc at_least 0.62", "refuse", 0.5, 0.62, text="roc_auc is 0.5 < 0.62"),
        GateResult("log_loss versus champion", "undecided", None, None, text="more & more"),
    ), "flights"))[0]  # fmt: skip
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert cases == {
        "leak": ["system-out"],
        "roc_auc at_least 0.62": ["failure"],
        "log_loss versus champion": ["error"],
    }
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert suite.find(".//failure").text == "roc_auc is 0.5 < 0.62"


@given(st.text(), st.text())
def test_any_words_make_well_formed_xml(name: str, text: str) -> None:
    xml = to_junit(verdict(GateResult(name, "undecided", None, None, text=text)), name)
    ET.fromstring(xml.encode("utf-8"))
