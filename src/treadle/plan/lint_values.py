"""What may stand in a field whose schema only says `string`: names, labels, quantities, ports.

Each function gives what is wrong with a value and the fix, or None.

Source: Kubernetes documentation, Object Names and IDs, Labels and Selectors, Resource quantities.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

Wrong = tuple[str, str] | None
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUANTITY = re.compile(
    r"([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,3})?",
    re.ASCII,
)
_POWERS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip
_ROLES = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})


def label(text: str) -> Wrong:
    """A name of containers, volumes and namespaces (RFC 1123)."""
    if len(text) <= 63 and _LABEL.fullmatch(text):
        return None
    return f"{_cut(text)} is no name here", "lower-case letters, digits and -, at most 63"


def object_name(kind: str, text: str) -> Wrong:
    """`metadata.name`."""
    if kind in _ROLES:  # theirs are parts of an address
        wrong = not text or text in (".", "..") or "/" in text or "%" in text
        return (f"{_cut(text)} is no name in Kubernetes", "no / and no %") if wrong else None
    if kind == "Service":
        if len(text) <= 63 and _LABEL.fullmatch(text) and text[0].isalpha():
            return None
        return (
            f"{_cut(text)} is no name of a Service",
            "a lower-case letter, then lower-case letters, digits and -, at most 63",
        )
    if kind == "Namespace":
        return label(text)
    most = {"CronJob": 52, "Job": 63}.get(kind, 253)
    if len(text) <= most and _SUBDOMAIN.fullmatch(text):
        return None
    return (
        f"{_cut(text)} is no name in Kubernetes",
        f"lower-case letters, digits and -, at most {most}",
    )


def port_name(text: str) -> Wrong:
    """A name of a container's port."""
    good = len(text) <= 15 and _LABEL.fullmatch(text) and "--" not in text
    if good and any(c.isalpha() for c in text):
        return None
    return (
        f"{_cut(text)} is no name of a port",
        "lower-case letters, digits and single -, at most 15, a letter among them",
    )


def label_key(text: str) -> Wrong:
    """A name of a label or an annotation: `app`, `example.com/app`."""
    prefix, slash, name = text.rpartition("/")
    good = len(name) <= 63 and _WORD.fullmatch(name)
    if good and (not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix))):
        return None
    return (
        f"{_cut(text)} is no name of a label",
        "letters, digits, - _ and ., at most 63; before it a domain and a /, if any",
    )


def label_value(text: str) -> Wrong:
    """A value of a label."""
    if not text or (len(text) <= 63 and _WORD.fullmatch(text)):
        return None
    return (
        f"{_cut(text)} cannot be a label's value",
        "letters, digits, - _ and . between them, at most 63; longer texts are annotations",
    )


def quantity(value: Any) -> Decimal | None:
    """The number that a quantity is: `500m`, `1Gi`, `2`; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        return None
    number, unit = Decimal(found[1]), found[2] or ""
    power = _POWERS.get(unit)
    return number * power if power is not None else number * Decimal(f"1{unit}")


def quantity_wrong(value: Any) -> Wrong:
    """Why a value is no quantity."""
    found = quantity(value)
    if found is None:
        text = str(value)
        mended = re.sub(
            r"(?i)^([\d.]+)\s*([kmgtp])i?b?$", lambda m: m[1] + m[2].upper() + "i", text
        )
        hint = f"write {mended}" if mended != text else "a number with m, k, M, G, Ki, Mi or Gi"
        return f"{_cut(text)} is no quantity", hint
    return (f"{_cut(str(value))} is less than nothing", "0 or more") if found < 0 else None


def odd_quantity(resource: str, value: Any) -> Wrong:
    """A quantity that is hardly meant."""
    found = quantity(value)
    if found is None or found <= 0:
        return None
    if resource in ("memory", "ephemeral-storage", "storage") and found < 1024:
        meant = str(value).rstrip("m")
        return f"{value} of {resource} is {found.normalize():f} bytes", f"did you mean {meant}Mi?"
    if resource == "cpu" and found >= 10_000:
        return f"{value} is {found:f} processors", "500m is half of one"
    return None


def port(value: Any) -> Wrong:
    """The number of a port."""
    if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= 65535:
        return f"there is no port {value}", "a number from 1 to 65535"
    return None


def _cut(text: str) -> str:
    return repr(text if len(text) <= 70 else f"{text[:69]}…")
