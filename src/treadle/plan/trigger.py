"""The retraining rule: reasons against brakes. Pure; the answer is a Decision also when it is no.

Reasons: decay of measured quality, drift, new labelled rows, a schedule, a person. Brakes: the
cooldown since the last training, no new data (the same data gives the same model), a hold,
approval by a person. A reason is never outvoted in silence: every brake that stopped one is named.

A person who asks outweighs cooldown, hold and "no new data" (they know something that the rule
does not), but not `approve: person`: who asks and who approves may be two people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from treadle.base.clock import duration_s, text
from treadle.base.spec import RetrainSection

RULE = "retrain: reasons against brakes"


@dataclass(frozen=True)
class Alarm:
    """One alarm of monitoring: a metric that decayed or a column that drifted."""

    subject: str
    """The metric (`log_loss`) or the column."""
    value: float
    """Now: the metric's value, or the drift's effect size."""
    reference: float
    """The metric's value at release, or the threshold of the effect size."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `value`."""
    window: str = ""
    """The window's id, or its span in words."""


@dataclass(frozen=True)
class RetrainEvidence:
    """Everything that the rule looks at; times are aware datetimes."""

    now: datetime
    last_turn: datetime | None = None
    """When the last training began; None: there was none."""
    last_yes: datetime | None = None
    """When this rule last said yes (a training that failed counts for the cooldown too)."""
    new_labelled_rows: int = 0
    """Rows with a label that the last training did not see."""
    decay: tuple[Alarm, ...] = ()
    drift: tuple[Alarm, ...] = ()
    requested_by: str | None = None
    """The person who asked."""
    approval: str | None = None
    """Id of a person's approval of this retraining."""
    pending: str | None = None
    """Id of the decision that already awaits approval."""
    data_changed: bool = True
    """Whether the training data changed since the last training."""
    held: str | None = None
    """Why nothing may be trained now, in words (a person's hold)."""


@dataclass(frozen=True)
class RetrainAnswer:
    """The answer with all that led to it."""

    answer: Literal["yes", "no", "approval"]
    reasons: tuple[str, ...]
    brakes: tuple[str, ...]
    """What stopped it, or would have, had no person asked."""
    words: str
    evidence: dict[str, Any]
    """Plain values for the ledger."""


def decide(evidence: RetrainEvidence, section: RetrainSection | None) -> RetrainAnswer:
    """Retrain now? yes, no, or approval: a person has to say so first.

    Never yes without a reason; never yes within the cooldown unless a person asked; with
    `approve: person` never yes without an approval. section None: only a person's request counts.
    """
    reasons = _reasons(evidence, section)
    brakes = _brakes(evidence, section)
    facts = _facts(evidence, section)
    asked = evidence.requested_by is not None
    if not reasons:
        words = _nothing(evidence, section)
        return RetrainAnswer("no", (), tuple(brakes), words, facts)
    because = _joined(reasons)
    if brakes and not asked:
        words = f"No retraining: {_joined(brakes)}. Speaking for it: {because}."
        return RetrainAnswer("no", tuple(reasons), tuple(brakes), words, facts)
    outweighed = f" A person's request outweighs: {_joined(brakes)}." if brakes else ""
    if section is not None and section.approve == "person" and evidence.approval is None:
        waits = f"it awaits approval as {evidence.pending}" if evidence.pending else (
            "a person has to approve it (`retrain.approve: person`)"
        )  # fmt: skip
        words = f"Retraining is due: {because}; {waits}.{outweighed}"
        return RetrainAnswer("approval", tuple(reasons), tuple(brakes), words, facts)
    approved = f" Approved as {evidence.approval}." if evidence.approval else ""
    words = f"Retraining: {because}.{approved}{outweighed}"
    return RetrainAnswer("yes", tuple(reasons), tuple(brakes), words, facts)


def _reasons(evidence: RetrainEvidence, section: RetrainSection | None) -> list[str]:
    reasons: list[str] = []
    if evidence.requested_by is not None:
        reasons.append(f"{evidence.requested_by or 'a person'} asked for it")
    if section is None:
        return reasons
    if "decay" in section.when:
        reasons += [_decay(alarm) for alarm in evidence.decay]
    if "drift" in section.when and evidence.drift:
        reasons.append(_drift(evidence.drift))
    if section.new_rows is not None and evidence.new_labelled_rows >= section.new_rows:
        reasons.append(
            f"{_number(evidence.new_labelled_rows)} new labelled rows "
            f"(`retrain.new_rows: {section.new_rows}`)"
        )
    if section.every is not None:
        if evidence.last_turn is None:
            reasons.append(f"nothing was trained yet (`retrain.every: {section.every}`)")
        elif evidence.now - evidence.last_turn >= timedelta(seconds=duration_s(section.every)):
            age = _span(evidence.now - evidence.last_turn)
            reasons.append(f"the last training is {age} ago (`retrain.every: {section.every}`)")
    return reasons


def _brakes(evidence: RetrainEvidence, section: RetrainSection | None) -> list[str]:
    brakes: list[str] = []
    if evidence.held is not None:
        brakes.append(f"held: {evidence.held or 'without a reason'}")
    last = _last(evidence)
    if section is not None and last is not None:
        left = last + timedelta(seconds=duration_s(section.cooldown)) - evidence.now
        if left > timedelta(0):
            ago = evidence.now - last
            when = f"{_span(ago)} ago" if ago >= timedelta(0) else "later than now"
            brakes.append(
                f"the last training was {when} and the cooldown of {section.cooldown} lasts "
                f"{_span(left)} more"
            )
    if not evidence.data_changed:
        brakes.append(
            "the training data has not changed since the last training: it would give the same model"
        )
    return brakes


def _last(evidence: RetrainEvidence) -> datetime | None:
    times = [moment for moment in (evidence.last_turn, evidence.last_yes) if moment is not None]
    return max(times, default=None)


def _nothing(evidence: RetrainEvidence, section: RetrainSection | None) -> str:
    if section is None:
        seen = len(evidence.decay) + len(evidence.drift)
        noticed = f" {seen} alarms stand open." if seen else ""
        return (
            f"No retraining: treadle.yaml has no `retrain:`, so only a person starts one.{noticed}"
        )
    asked: list[str] = []
    if "decay" in section.when:
        asked.append("no measured quality decayed")
    if "drift" in section.when:
        asked.append("no drift")
    if section.new_rows is not None:
        rows = _number(evidence.new_labelled_rows)
        asked.append(f"{rows} new labelled rows of {_number(section.new_rows)}")
    if section.every is not None and evidence.last_turn is not None:
        age = _span(evidence.now - evidence.last_turn)
        asked.append(f"the last training is {age} ago, not {section.every}")
    words = f"No retraining: no reason ({'; '.join(asked) or 'none is named'})."
    for name, alarms in (("decay", evidence.decay), ("drift", evidence.drift)):
        if alarms and name not in section.when:
            words += f" {name.capitalize()} was seen, but `retrain.when` does not list it."
    return words


def _decay(alarm: Alarm) -> str:
    between = ""
    if alarm.low is not None and alarm.high is not None:
        between = f" (95 %: {alarm.low:.4g} to {alarm.high:.4g})"
    where = f" in {alarm.window}" if alarm.window else ""
    return (
        f"{alarm.subject} is {alarm.value:.4g}{between}{where}, "
        f"at release it was {alarm.reference:.4g}"
    )


def _drift(alarms: tuple[Alarm, ...]) -> str:
    ordered = sorted(alarms, key=lambda a: (-a.value / (a.reference or 1.0), a.subject))
    shown = [f"{a.subject} {a.value:.3g} (threshold {a.reference:.3g})" for a in ordered[:3]]
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return f"{', '.join(shown)}{more} drifted"


def _joined(sentences: list[str]) -> str:
    return "; ".join(sentences)


def _number(value: int) -> str:
    return f"{value:,}"


def _span(span: timedelta) -> str:
    """A time span in one unit a person counts in: `6 days`, `1 hour`, `less than a minute`."""
    seconds = abs(span.total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return "less than a minute"


def _facts(evidence: RetrainEvidence, section: RetrainSection | None) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        return None if value is None else text(value)

    def alarms(values: tuple[Alarm, ...]) -> list[dict[str, Any]]:
        return [dict(vars(alarm)) for alarm in values]

    facts: dict[str, Any] = {
        "now": text(evidence.now),
        "last_turn": moment(evidence.last_turn),
        "last_yes": moment(evidence.last_yes),
        "new_labelled_rows": evidence.new_labelled_rows,
        "decay": alarms(evidence.decay),
        "drift": alarms(evidence.drift),
        "requested_by": evidence.requested_by,
        "approval": evidence.approval,
        "pending": evidence.pending,
        "data_changed": evidence.data_changed,
        "held": evidence.held,
        "section": None,
    }
    if section is not None:
        facts["section"] = {
            "when": list(section.when), "every": section.every, "new_rows": section.new_rows,
            "cooldown": section.cooldown, "approve": section.approve,
        }  # fmt: skip
        last = _last(evidence)
        if last is not None:
            facts["cooldown_until"] = text(last + timedelta(seconds=duration_s(section.cooldown)))
    return facts
