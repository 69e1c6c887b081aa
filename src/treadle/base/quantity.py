"""Quantities of Kubernetes (`250m`, `1.5Gi`, `2e3`) as its API server writes them.

The server rewrites most of what it is given (`1000m` becomes `1`, `1024Mi` becomes `1Gi`); who sends
another form is told forever that somebody changed it. The canonical form comes back as it is, and is
the only one that is rendered.

Source: Kubernetes API reference, Quantity; what a resource is rounded to: thousandths, upwards.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_MOST = 2**63 - 1


def canonical(text: str) -> str:
    """A resource's quantity in the one form that the API server gives back.

    Whole numbers, the largest suffix that loses nothing, powers of 1024 only for what was given so.
    ValueError for what is no quantity, is negative, or is more than 2⁶³ - 1.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(
            f"a quantity is a number with a suffix, such as 250m, 2, 512Mi or 1Gi, not {text}"
        )
    sign, digits, suffix, exponent = match[1], match[2], match[3] or "", match[4]
    value = Fraction(digits.rstrip(".") if digits != "." else "0")
    if exponent is not None:
        value *= Fraction(10) ** int(exponent)
    elif suffix in _DECIMAL:
        value *= Fraction(10) ** _DECIMAL[suffix]
    else:
        value *= 1024 ** _BINARY.index(suffix)
    if sign == "-" and value:
        raise ValueError(f"a quantity of a resource is 0 or more, not {text}")
    if value > _MOST:
        raise ValueError(f"a quantity is at most {_MOST}, not {text}")
    thousandths = -((-value * 1000).__floor__())
    if not thousandths:
        return "0"
    if suffix in _BINARY[1:] and thousandths >= 1024_000 and thousandths % 1000 == 0:
        return _binary(thousandths // 1000)
    return _decimal(thousandths, "e" if exponent is not None else "")


def _binary(value: int) -> str:
    power = 0
    while value % 1024 == 0:
        value, power = value // 1024, power + 1
    return f"{value}{_BINARY[power]}"


def _decimal(thousandths: int, style: str) -> str:
    value, exponent = thousandths, -3
    while value % 1000 == 0:
        value, exponent = value // 1000, exponent + 3
    if style and exponent:
        return f"{value}e{exponent}"
    return f"{value}{_SUFFIX[exponent]}"
