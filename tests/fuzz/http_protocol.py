"""Coverage-guided mistakes for the HTTP protocol: `python tests/fuzz/http_protocol.py -runs=100000`.

Needs atheris, which is no dependency: without it, this says so and ends. The same check runs without
it in tests/operate/test_http_properties.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

RUNS = "-runs=20000"


def main() -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: nothing was fuzzed", file=sys.stderr)
        return 0
    with atheris.instrument_imports(include=["treadle.operate"]):
        pass

    from tests.support import http_fuzz
    from tests.support.http_cases import CASES

    def once(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        cuts = [provider.ConsumeIntInRange(0, 4096) for _ in range(4)]
        raw = b""
        for _ in range(provider.ConsumeIntInRange(0, 3)):
            raw += CASES[provider.ConsumeIntInRange(0, len(CASES) - 1)].raw
            raw = raw[: len(raw) - provider.ConsumeIntInRange(0, 12)]
        raw += provider.ConsumeBytes(provider.remaining_bytes())
        http_fuzz.check(http_fuzz.cut(raw, cuts))

    arguments = sys.argv
    if not any(argument.startswith("-runs") for argument in arguments):
        arguments = [*arguments, RUNS]
    atheris.Setup(arguments, once)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
