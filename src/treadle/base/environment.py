"""`${NAME}` in a text, from the environment: the one place where a secret may stand outside."""

from __future__ import annotations

import re
from collections.abc import Mapping

from treadle.base.errors import UsageError

_NAME = re.compile(r"\$\{([^}]*)\}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with every `${NAME}` replaced by that variable.

    UsageError names the variables that are not set (never a value), and a `${…}` that is no name.
    """
    names = _NAME.findall(text)
    for name in names:
        if not _WORD.fullmatch(name):
            raise UsageError(
                f"${{{name}}} names no environment variable",
                hint="letters, digits and _ between the braces: ${FLIGHTS_DSN}",
            )
    absent = [name for name in dict.fromkeys(names) if name not in environ]
    if absent:
        word = "variable is" if len(absent) == 1 else "variables are"
        raise UsageError(
            f"the environment {word} not set: {', '.join(absent)}",
            hint=f"export {absent[0]}=…",
        )
    return _NAME.sub(lambda match: environ[match[1]], text)
