"""The Markdown of one run: a pure function of its JSON.

Every figure is the median over the rounds with [smallest–largest]; every ratio is taken within a
round, and the median of these ratios is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Run = dict[str, Any]
Peer = dict[str, Any]
BEST_OF = ("mlflow", "mlflow-frame", "bentoml", "litserve", "mlserver", "kserve")
"""Whose best the 100-row target is held against."""


def short(value: float) -> str:
    """Two or three digits, thousands with a comma."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """Median [smallest–largest]; a dash without values."""
    if not values:
        return "–"
    middle = short(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} [{short(min(values))}–{short(max(values))}]"


def middle(values: Sequence[float]) -> str:
    """The median alone."""
    return short(statistics.median(values)) if values else "–"


def percent(values: Sequence[float]) -> str:
    """The median as a percentage."""
    return f"{statistics.median(values):.0%}" if values else "–"


def samples(peer: Peer | None, cell: str, name: str) -> list[float]:
    """One figure of a cell, a value a round."""
    return [] if peer is None else [s[name] for s in peer.get("cells", {}).get(cell, ())]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios within the rounds that both have."""
    return [a / b for a, b in zip(ours, theirs, strict=False) if b]


def _peer(run: Run, case: str, name: str) -> Peer | None:
    found = run["cases"].get(case, {}).get("peers", {}).get(name)
    return found if found and found.get("cells") else None


def _mlflow(run: Run, case: str) -> list[tuple[str, Peer]]:
    """MLflow's rows of a case, with words."""
    rows = (
        ("tensors", _peer(run, case, "mlflow")),
        ("DataFrame", _peer(run, case, "mlflow-frame")),
    )
    return [(word, peer) for word, peer in rows if peer is not None]


def case_table(run: Run, case: str) -> str:
    """One model: all servers."""
    found = run["cases"][case]
    mlflow = _mlflow(run, case)
    nginx = _peer(run, case, "nginx")
    head = ["", "64 conn., answers/s", "× nginx", *(f"× MLflow, {word}" for word, _ in mlflow),
            "p50 ms", "p99 ms", "CPU µs", "core busy", "1 conn. p50 ms", "p99 ms", "16 conn. × 100 rows, answers/s",
            "p99 ms", "CPU µs", "first answer s", "RSS MB", "PSS MB"]  # fmt: skip
    lines = [f"### {found['title']}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    left_out = []
    for peer in found["peers"].values():
        reason = peer.get("skipped") or peer.get("error")
        if reason:
            left_out.append(f"- {peer['title']}: {reason}")
        if not peer.get("cells"):
            continue
        many = samples(peer, "64", "rate")
        row = [
            peer["title"], spread(many), middle(ratios(many, samples(nginx, "64", "rate"))),
            *(middle(ratios(many, samples(other, "64", "rate"))) for _, other in mlflow),
            middle(samples(peer, "64", "p50_ms")), middle(samples(peer, "64", "p99_ms")),
            middle(samples(peer, "64", "cpu_us")), percent(samples(peer, "64", "busy")),
            middle(samples(peer, "1", "p50_ms")), middle(samples(peer, "1", "p99_ms")),
            spread(samples(peer, "100", "rate")), middle(samples(peer, "100", "p99_ms")),
            middle(samples(peer, "100", "cpu_us")), spread(peer.get("starts", [])),
            middle(peer.get("rss_mb", [])), middle(peer.get("pss_mb", [])),
        ]  # fmt: skip
        lines.append("| " + " | ".join(row) + " |")
    inside = found.get("inprocess", [])
    lines += [
        "",
        f"The model called in its process, one row: p50 {middle([s['p50_ms'] for s in inside])} ms, "
        f"p99 {middle([s['p99_ms'] for s in inside])} ms. Every server's answers to "
        f"{found['asked']} rows were compared with it before and after: worst difference "
        f"{max((p['difference'] for p in found['peers'].values() if 'difference' in p), default=0):.1g}.",
        "",
    ]  # fmt: skip
    busy = samples(nginx, "64", "busy")
    if busy and statistics.median(busy) < 0.95:
        main = found["peers"].get("treadle") or found["peers"].get("treadle-frame")
        by_cpu = ratios(samples(nginx, "64", "cpu_us"), samples(main, "64", "cpu_us"))
        lines += [
            f"nginx did not fill its core ({percent(busy)}: wrk was the limit, or the core was "
            f"shared). By CPU per answer treadle is at {middle(by_cpu)} × nginx.",
            "",
        ]
    settings = [
        f"{p['title']}: {p['setting']}" for p in found["peers"].values() if p.get("setting")
    ]
    if settings:
        lines += ["Settings. " + "; ".join(settings) + ".", ""]
    if left_out:
        lines += ["Left out, or with something to say:", "", *left_out, ""]
    return "\n".join(lines)


Target = tuple[str, str, list[float], float, bool]
"""What, in which case, the figure of each round, the bound, whether it is a lower bound."""


def targets(run: Run) -> list[Target]:
    """The issue's figures that this run can be held to."""
    found: list[Target] = []

    def versus(
        what: str, case: str, name: str, others: Sequence[str], cell: str, bound: float
    ) -> None:
        """Answers a second against the best of others, round by round."""
        ours = samples(_peer(run, case, name), cell, "rate")
        theirs = [samples(_peer(run, case, other), cell, "rate") for other in others]
        best = [max(values) for values in zip(*filter(None, theirs), strict=False)]
        if ours and best:
            found.append((what, run["cases"][case]["title"], ratios(ours, best), bound, True))

    versus("treadle, 64 connections / nginx", "logreg", "treadle", ["nginx"], "64", 0.30)
    versus("compiled, 64 connections / nginx", "logreg", "treadle-compiled", ["nginx"], "64", 0.45)
    versus("treadle, 64 connections / mlflow models serve", "flights", "treadle-frame",
           ["mlflow-frame"], "64", 30)  # fmt: skip
    for case in ("lightgbm", "hgb"):
        for name, word in (("treadle", "treadle"), ("treadle-compiled", "compiled")):
            versus(
                f"{word}, 64 connections / mlflow models serve", case, name, ["mlflow"], "64", 50
            )
    for name in ("treadle", "treadle-frame"):
        versus(f"{name}, 100 rows / best of MLflow, BentoML, LitServe, MLServer, KServe", "logreg",
               name, BEST_OF, "100", 5)  # fmt: skip
    for case, entry in run["cases"].items():
        inside, nginx = entry.get("inprocess", []), _peer(run, case, "nginx")
        for name, peer in entry["peers"].items():
            if not peer.get("ours") or not peer.get("cells"):
                continue
            if name == "treadle-compiled":
                continue  # the in-process call is scikit-learn's, a compiled one would look too good
            for figure, bound in (("p50_ms", 1.6), ("p99_ms", 3.0)):
                floor = [
                    a[figure] + b for a, b in zip(inside, samples(nginx, "1", figure), strict=False)
                ]
                values = ratios(samples(peer, "1", figure), floor)
                if values:
                    what = f"{name}, 1 connection: {figure[:3]} / (nginx's + in-process)"
                    found.append((what, entry["title"], values, bound, False))
        main = "treadle" if "treadle" in entry["peers"] else "treadle-frame"
        peer = _peer(run, case, main) or {}
        light = case in ("lightgbm", "onnx")
        if peer.get("starts"):
            what = f"{main}, first right answer, s"
            found.append((what, entry["title"], peer["starts"], 1.2 if light else 3.0, False))
        if peer.get("pss_mb") and case != "lightgbm":
            bound = 80 if case == "onnx" else 130
            found.append((f"{main}, PSS MB", entry["title"], peer["pss_mb"], bound, False))
    return found


def target_table(run: Run) -> str:
    """What was asked, what was found."""
    lines = [
        "### Targets",
        "",
        "| what | model | found | asked | reached |",
        "|---|---|---|---|---|",
    ]
    for what, title, values, bound, lower in targets(run):
        value = statistics.median(values)
        good = value >= bound if lower else value <= bound
        lines.append(
            f"| {what} | {title.split(' (')[0]} | {spread(values)} | {'≥' if lower else '≤'} {bound} "
            f"| {'yes' if good else '**no**'} |"
        )
    return "\n".join([*lines, ""])


def soak_lines(soak: dict[str, Any]) -> str:
    """One soak in words."""
    latency, late = soak["latency_ms"], soak["sent_late_ms"]
    return "\n".join([
        f"### Soak: {soak['seconds']:.0f} s at {soak['rate']:,.0f} requests a second",
        "",
        "| asked/s | answered/s | answers | wrong | lost | refused | p50 ms | p99 ms | p99.9 ms "
        "| max ms | sent late, p99 ms | client, cores | RSS MB first–last | RSS swing | flat within 5 % |",
        "|---" * 15 + "|",
        f"| {soak['rate']:,.0f} | {soak['achieved']:,.0f} | {soak['answers']:,} | {soak['wrong']} "
        f"| {soak['lost']} | {soak['refused']} | {latency['p50']:.2f} | {latency['p99']:.2f} "
        f"| {latency['p99.9']:.2f} | {latency['max']:.2f} | {late['p99']:.2f} "
        f"| {soak['client_cores']:.2f} | {soak['rss_first_mb']:.1f}–{soak['rss_last_mb']:.1f} "
        f"| {soak['rss_swing'] * 100:.1f} % | {'yes' if soak['flat'] else '**no**'} |",
        "",
        "Every answer was compared with the model called in the process, every prediction id is its "
        "own. Latency counts from the moment at which a request was to be sent, not from when a free "
        "connection was found (coordinated omission).",
        "",
    ])  # fmt: skip


def report(run: Run) -> str:
    """The whole section."""
    machine, options = run["machine"], run["options"]
    loads = ", ".join(f"{load:.1f}" for load in run["loads"])
    parts = [
        "## The model server: `python benchmarks/serving.py`",
        "",
        "The same models in the servers that people use. Ours has capture, metrics and a prediction "
        "id on every answer switched on; the others run one worker, without access logs, each in the "
        "faster of its usual settings. "
        f"Server pinned to one core, wrk (one thread) to another; {options['rounds']} interleaved "
        f"rounds of {options['seconds']} s a cell, all other servers stopped meanwhile. Medians "
        "[smallest–largest]; ratios within a round. CPU is the server's, per answer.",
        "",
        f"{machine['cores']} cores {machine['processor']}, {machine['memory']}, {machine['system']}, "
        f"Python {machine['python']}; load at the start {run['loads'][0]:.1f} (after each model: "
        f"{loads}); {run['minutes']:.1f} minutes; commit {run['commit']}",
        "",
        "; ".join(f"{name}: {words}" for name, words in run["versions"].items()),
        "",
    ]
    if run["cases"]:
        parts += [target_table(run)]
        parts += [case_table(run, case) for case in run["cases"]]
    if run.get("soak"):
        parts += [soak_lines(run["soak"])]
    return "\n".join(parts)
