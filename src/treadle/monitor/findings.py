"""What monitoring saw in a window, each a sentence with its numbers, and what follows from it.

A window is looked at twice: its inputs and predictions when it closes (`look_at_traffic`), its
quality when its truth has matured (`look_at_quality`). `examine` does what is due. Finding ids are
made of the window and the subject, so that looking again replaces and never doubles.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from treadle.base import clock
from treadle.base.clock import duration_s
from treadle.base.records import Finding, Window
from treadle.base.spec import MonitorSection
from treadle.monitor import drift as drifts
from treadle.monitor import quality as qualities
from treadle.monitor.drift import ColumnDrift
from treadle.monitor.quality import Decay, Judged, Measure, Measured
from treadle.monitor.truth import Coverage

LEAST_COVERAGE = 0.5
"""Below this share of matured rows with a truth, quality speaks of a part only: said as a finding."""


def drift_alpha(section: MonitorSection) -> float:
    """The part of the false-alarm budget that drift may spend on one window."""
    share = 1.0 - qualities.DECAY_SHARE if section.truth else 1.0
    return qualities.alpha_of_look(section, share)


def decay_alpha(section: MonitorSection) -> float:
    """The part of the false-alarm budget that decay may spend on one window."""
    return qualities.alpha_of_look(section, qualities.DECAY_SHARE)


def matures_at(window: Window, section: MonitorSection) -> datetime.datetime:
    """When all of the window's truth should have arrived."""
    after = duration_s(section.truth.matures) if section.truth else 0.0
    return clock.parse(window.end) + datetime.timedelta(seconds=after)


def examine(
    window: Window,
    table: pa.Table,
    *,
    section: MonitorSection,
    now: datetime.datetime,
    columns: Sequence[str],
    training: Mapping[str, Any] | None,
    placebo: Mapping[str, Any] | None,
    block_s: float,
    coverage: Coverage | None = None,
    judged: Judged | None = None,
    release_quality: Mapping[str, Measured] | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> list[Finding]:
    """All findings of a window that can be made by now; the two looks below say of what.

    `coverage` and `judged` are given once the window's truth has matured (`matures_at`).
    """
    found = look_at_traffic(
        window,
        table,
        section=section,
        now=now,
        columns=columns,
        training=training,
        placebo=placebo,
        block_s=block_s,
    )
    if section.truth and coverage is not None and now >= matures_at(window, section):
        found += look_at_quality(
            window,
            section=section,
            now=now,
            coverage=coverage,
            judged=judged,
            release_quality=release_quality or {},
            measures=measures or {},
        )
    return found


def look_at_traffic(
    window: Window,
    table: pa.Table,
    *,
    section: MonitorSection,
    now: datetime.datetime,
    columns: Sequence[str],
    training: Mapping[str, Any] | None,
    placebo: Mapping[str, Any] | None,
    block_s: float,
) -> list[Finding]:
    """No traffic at all, and drift of `columns` and of the predictions.

    `table` carries the watched `prediction` column (`drift.with_answers`); `training` is the
    model's profile, `placebo` its `drift.reference`; without a profile drift is not looked at.
    """
    if not window.rows:
        return [
            _finding(
                window,
                "volume",
                "requests",
                now,
                0.0,
                1.0,
                alarm=True,
                text=f"no request was captured from {_day(window.start)} to {_day(window.end)}: "
                "either nobody asked or capture is off; nothing can be said about this span",
            )
        ]
    if training is None:
        return []
    part = drifts.partial(table, placebo, block_s)
    if part:
        return [
            _finding(
                window,
                "volume",
                "blocks",
                now,
                part[0],
                part[1],
                alarm=False,
                text=f"traffic in {part[0]} of {part[1]} blocks from {_day(window.start)} to "
                f"{_day(window.end)}: too partial to compare with training",
            )
        ]
    looks = drifts.compare(table, training, placebo, columns, drift_alpha(section), block_s=block_s)
    return [
        _finding(
            window,
            "drift",
            look.column,
            now,
            look.psi,
            look.threshold,
            p_value=look.p_value,
            alpha=look.alpha,
            alarm=look.alarm,
            text=_drift_words(look),
            value=look.psi,
            reference=look.threshold,
        )
        for look in looks
        if look.large
    ]


def look_at_quality(
    window: Window,
    *,
    section: MonitorSection,
    now: datetime.datetime,
    coverage: Coverage,
    judged: Judged | None,
    release_quality: Mapping[str, Measured],
    measures: Mapping[str, Measure],
) -> list[Finding]:
    """How much truth there is, and decay against the quality at release.

    `coverage` is this window's (`truth.join`); `judged` are all judged rows of the champion since
    its release, this window's included (`quality.concatenate`); `release_quality` is
    `quality.measure` of the champion's holdout.
    """
    found = []
    if coverage.matured and coverage.share < LEAST_COVERAGE:
        found.append(
            _finding(
                window,
                "coverage",
                "truth",
                now,
                coverage.share,
                LEAST_COVERAGE,
                alarm=True,
                text=f"{coverage.words}: that is {coverage.share:.0%}, and below "
                f"{LEAST_COVERAGE:.0%} quality is known for a part only that may not be typical",
            )
        )
    if judged is None or not len(judged):
        return found
    look = qualities.decay(judged, release_quality, measures, decay_alpha(section))
    if look.reason:
        found.append(
            _finding(window, "decay", "evidence", now, 0.0, 0.0, alarm=False, text=look.reason)
        )
    for name in measures:
        tests = [test for test in look.comparisons if test.metric == name]
        if not tests:
            continue
        # The comparison that shows most speaks for the metric; the others are weaker.
        test = min(tests, key=lambda one: (not one.alarm, one.p_value, -one.fall))
        if test.alarm:
            found.append(
                _finding(
                    window,
                    "decay",
                    name,
                    now,
                    test.fall,
                    test.worth,
                    p_value=test.p_value,
                    alpha=test.alpha,
                    alarm=True,
                    text=_decay_words(test, measures[name]),
                    value=test.now.value,
                    reference=test.before.value,
                    interval=_interval_of_value(test.now, measures[name]),
                )
            )
        last = look.realised.get(name)
        if measures[name].skill and last and last.constant is not None and last.goodness < 0:
            found.append(
                _finding(
                    window,
                    "decay",
                    f"{name} versus constant",
                    now,
                    -last.goodness,
                    0.0,
                    alarm=False,
                    text=f"{name} over the last {last.blocks} blocks is {last.value:.3f}, worse "
                    f"than the {last.constant:.3f} of saying the same to everyone: the model's "
                    "numbers mislead at this level, though their order may still be right",
                )
            )
    return found


def evidence(
    findings: Iterable[Finding],
    now: datetime.datetime,
    *,
    since: datetime.datetime | None = None,
    section: MonitorSection | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The alarms that speak for retraining now: `{"decay": […], "drift": […]}`, newest first.

    Each is `{subject, value, reference, low, high, window}`: what `plan.trigger.Alarm` takes. Of each subject the newest alarm. An alarm counts while it was found after `since` (the last
    turn: what was seen before it is answered) and within two windows: later looks that stayed quiet
    withdraw it.
    """
    oldest = None
    if section is not None:
        oldest = now - datetime.timedelta(seconds=2 * duration_s(section.window))
    newest: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        if not finding.alarm or finding.kind not in ("decay", "drift"):
            continue
        found = clock.parse(finding.found)
        if found > now or (since is not None and found <= since):
            continue
        if oldest is not None and found < oldest:
            continue
        key = (finding.kind, finding.subject)
        if key not in newest or newest[key].found < finding.found:
            newest[key] = finding
    ordered = sorted(newest.values(), key=lambda one: (one.found, one.effect), reverse=True)
    return {
        kind: [
            {
                "subject": one.subject,
                "value": one.effect if one.value is None else one.value,
                "reference": one.threshold if one.reference is None else one.reference,
                "low": one.low,
                "high": one.high,
                "window": one.window,
            }
            for one in ordered
            if one.kind == kind
        ]
        for kind in ("decay", "drift")
    }


# ---- words ---------------------------------------------------------------------------------------


def _drift_words(look: ColumnDrift) -> str:
    name = "the predictions" if look.column == drifts.PREDICTION else look.column
    if look.what == "missing":
        seen = (
            f"{name}: {look.missing[1]:.1%} of the values are missing, in training it was "
            f"{look.missing[0]:.1%}"
        )
    elif look.unseen[1] - look.unseen[0] >= 0.01:
        seen = (
            f"{name}: {look.unseen[1]:.1%} of the values are categories that training has no bin "
            f"for ({look.unseen[0]:.1%} then); PSI {look.psi:.3f}"
        )
    else:
        distance = "" if look.ks is None else f", KS {look.ks:.3f}"
        seen = f"{name}: the distribution moved from training's by PSI {look.psi:.3f}{distance}"
    if look.usual is not None:
        usual = f"windows of the training data differ among themselves by up to {look.usual:.3f}"
    else:
        usual = "training has no windows to say what is usual"
    if look.alarm:
        means = "this is not usual: find out what changed, a new model may be needed"
    elif look.p_value is None:
        means = "too few blocks to test: no alarm"
    else:
        means = "this may be usual for it: no alarm"
    chance = "" if look.p_value is None else f" (p {_p(look.p_value)}, alarm at {_p(look.alpha)})"
    return f"{seen}; {usual}{chance}; {means}"


def _decay_words(test: Decay, how: Measure) -> str:
    low, high = test.now.interval
    before = "at release" if not test.with_service else "at release and in its first weeks"
    if how.skill:
        level = (
            f"{test.metric} over the last {test.span} blocks is {test.now.value:.3f} where the best "
            f"constant has {test.now.constant:.3f}: a skill of {test.now.goodness:.3f} "
            f"(95 % {low:.3f} to {high:.3f}), {before} {test.before.goodness:.3f}"
        )
    else:
        ends = _interval_of_value(test.now, how)
        level = (
            f"{test.metric} over the last {test.span} blocks is {test.now.value:.3f} "
            f"(95 % {ends[0]:.3f} to {ends[1]:.3f}), {before} {test.before.value:.3f}"
        )
    return (
        f"{level}; a fall of {test.fall:.3f} is more than chance between blocks explains "
        f"(p {_p(test.p_value)}, alarm at {_p(test.alpha)}): the model is worse than when it was "
        "accepted"
    )


def _interval_of_value(found: Measured, how: Measure) -> tuple[float, float]:
    """The interval of goodness in the metric's own unit."""
    low, high = found.interval
    if how.skill and found.constant is not None:
        return found.constant * (1 - high), found.constant * (1 - low)
    return (low, high) if how.higher_is_better else (-high, -low)


def _p(value: float) -> str:
    return "< .0001" if value < 0.0001 else f"{value:.4f}".lstrip("0")


def _day(text: str) -> str:
    moment = clock.parse(text)
    return (
        f"{moment:%Y-%m-%d}" if not (moment.hour or moment.minute) else f"{moment:%Y-%m-%d %H:%M}"
    )


def _finding(
    window: Window,
    kind: Any,
    subject: str,
    now: datetime.datetime,
    effect: float,
    threshold: float,
    *,
    text: str,
    alarm: bool,
    p_value: float | None = None,
    alpha: float | None = None,
    value: float | None = None,
    reference: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Finding:
    return Finding(
        id=f"{window.id}/{kind}/{subject}",
        environment=window.environment,
        window=window.id,
        kind=kind,
        subject=subject,
        effect=float(effect),
        threshold=float(threshold),
        p_value=None if p_value is None else float(p_value),
        alpha=None if alpha is None else float(alpha),
        alarm=alarm,
        text=text,
        found=clock.text(now),
        value=None if value is None else float(value),
        reference=None if reference is None else float(reference),
        low=None if interval is None else float(interval[0]),
        high=None if interval is None else float(interval[1]),
    )
