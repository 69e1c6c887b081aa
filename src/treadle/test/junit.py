"""A verdict as JUnit XML: one test case a gate, so that a CI service shows each by name."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from treadle.base.records import GateResult, Verdict

_ILLEGAL = dict.fromkeys(
    [*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF],
    "\N{REPLACEMENT CHARACTER}",
)
"""Characters that no XML document may hold."""


def to_junit(verdict: Verdict, project: str = "treadle") -> str:
    """XML text; a refused gate is a failure, an undecided one an error, the words are its text."""
    refused = sum(gate.outcome == "refuse" for gate in verdict.gates)
    undecided = sum(gate.outcome == "undecided" for gate in verdict.gates)
    counts = f'tests="{len(verdict.gates)}" failures="{refused}" errors="{undecided}"'
    name = _attribute(f"{project} gates")
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuites name={name} {counts}>",
        f"  <testsuite name={name} {counts}>",
        "    <properties>",
        *(
            f"      <property name={_attribute(key)} value={_attribute(str(value))}/>"
            for key, value in [
                ("outcome", verdict.outcome), ("model", verdict.model),
                ("champion", verdict.champion or ""), ("rows", verdict.rows),
                ("unlabelled", verdict.unlabelled), ("blocks", verdict.blocks),
                ("attempts", verdict.attempts), *sorted(verdict.metrics.items()),
            ]
        ),
        "    </properties>",
        *(line for gate in verdict.gates for line in _case(gate, project)),
        "  </testsuite>",
        "</testsuites>",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _case(gate: GateResult, project: str) -> list[str]:
    case = f'    <testcase classname={_attribute(project)} name={_attribute(gate.gate)} time="0"'
    text = escape(gate.text.translate(_ILLEGAL))
    if gate.outcome == "pass":
        return [f"{case}>", f"      <system-out>{text}</system-out>", "    </testcase>"]
    element = "failure" if gate.outcome == "refuse" else "error"
    opening = f"<{element} type={_attribute(gate.outcome)} message={_attribute(gate.text)}>"
    return [f"{case}>", f"      {opening}{text}</{element}>", "    </testcase>"]


def _attribute(text: str) -> str:
    return quoteattr(text.translate(_ILLEGAL))
