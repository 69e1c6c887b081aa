"""An entry of `deploy:` leads to what rolls it out."""

from __future__ import annotations

import pytest

from treadle.base.errors import UsageError
from treadle.base.spec import BatchTarget, ProcessTarget
from treadle.deploy import process, target


def test_a_process_target_is_served_by_the_process_module() -> None:
    assert target.of(ProcessTarget(target="process")) is process


def test_a_batch_target_serves_nothing_and_says_whom_to_ask() -> None:
    with pytest.raises(UsageError, match="scores files") as caught:
        target.of(BatchTarget(target="batch", of="local", input="a", output="b"))
    assert "local" in str(caught.value.hint)
