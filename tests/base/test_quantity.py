"""base/quantity.py: one form of each quantity, that of the API server."""

from __future__ import annotations

import json
import random
import subprocess
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from treadle.base.quantity import canonical

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
KNOWN = [
    ("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5", "1500m"), ("1.5Gi", "1536Mi"),
    ("0.5Gi", "512Mi"), ("250m", "250m"), ("512Mi", "512Mi"), ("2", "2"), ("1024", "1024"),
    ("1000", "1k"), ("1500k", "1500k"), ("1e3", "1e3"), ("1E3", "1e3"), ("1E", "1E"),
    ("0.5Ki", "512"), ("1023Ki", "1023Ki"), ("0.0001", "1m"), ("1n", "1m"), ("+1", "1"),
    ("001", "1"), ("1.", "1"), (".5", "500m"), ("0", "0"), ("0Mi", "0"), ("1000Mi", "1000Mi"),
]  # fmt: skip


def value(text: str) -> Fraction:
    """What a quantity says, read by rules of this test's own."""
    for suffix, power in BINARY.items():
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix).strip("+").rstrip(".")) * 1024**power
    lower = text.lower()
    if "e" in lower and not lower.endswith("e"):
        digits, _, exponent = lower.partition("e")
        return Fraction(digits.strip("+").rstrip(".")) * Fraction(10) ** int(exponent)
    suffix = text[-1] if text[-1] in DECIMAL else ""
    return (
        Fraction(text.removesuffix(suffix).strip("+").rstrip(".")) * Fraction(10) ** DECIMAL[suffix]
    )


NUMBERS = st.integers(0, 10**9).map(str) | st.tuples(
    st.integers(0, 10**5), st.text("0123456789", min_size=1, max_size=8)
).map(lambda parts: f"{parts[0]}.{parts[1]}")
QUANTITIES = st.tuples(
    NUMBERS, st.sampled_from([*DECIMAL, "Ki", "Mi", "Gi", "e3", "E2", "e-2", "e0", "e1"])
).map("".join)  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), KNOWN)
def test_quantity_is_written_in_the_one_form(text: str, wanted: str) -> None:
    assert canonical(text) == wanted


@given(QUANTITIES)
@example("9007199254740993Ki")
def test_form_says_the_same_and_is_its_own_form(text: str) -> None:
    try:
        found = canonical(text)
    except ValueError as error:
        assert "at most" in str(error)
        assert value(text) > 2**63 - 1
        return
    assert canonical(found) == found
    # What a resource counts is thousandths, and who asks for less than one gets one.
    assert 0 <= value(found) - value(text) < Fraction(1, 1000)


@given(QUANTITIES)
def test_no_shorter_number_with_a_larger_suffix_says_the_same(text: str) -> None:
    try:
        found = canonical(text)
    except ValueError:
        return
    digits = found.rstrip("kmKMGTPEi") if "e" not in found else found.partition("e")[0]
    assert digits.isdigit()
    if found.endswith("i"):
        assert int(digits) % 1024
    elif found != "0" and "e" not in found:
        assert int(digits) % 1000


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1gb", "1K", "-1", "1e", "1.2.3", "0x1", "1GiB", "NaN", "10E", "1e99", "."])  # fmt: skip
def test_what_is_no_quantity_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        canonical(text)


@pytest.mark.cluster
def test_api_server_gives_each_form_back_as_it_is() -> None:
    from tests.support import cluster

    cluster.require()
    source = random.Random(7)
    texts = [text for text, _ in KNOWN]
    for _ in range(120):
        number = source.choice([str(source.randint(1, 10**source.randint(1, 9))), f"{source.uniform(0, 9999):.{source.randint(1, 6)}f}"])  # fmt: skip
        texts.append(
            number + source.choice(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-2"])
        )
    forms = [canonical(text) for text in texts]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "quantities", "namespace": "default"},
        "spec": {"containers": [
            {"name": f"c{number}", "image": "none", "resources": {"limits": {"memory": form}}}
            for number, form in enumerate(forms)
        ]},
    }  # fmt: skip
    done = subprocess.run(
        ["kubectl", "apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-"],
        input=json.dumps(pod), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)["spec"]["containers"]
    assert [one["resources"]["limits"]["memory"] for one in found] == forms
