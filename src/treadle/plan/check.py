"""From the tree of treadle.yaml to sections: every mistake at once.

Four checks in turn: keys (unknown, misspelt, of later work), values (pydantic, strict), texts, and
what sections say about one another. Each goes on with what it can read, so that one slip of the
finger does not hide the mistakes behind it.
"""

from __future__ import annotations

from treadle.base.spec import Spec
from treadle.plan import check_keys, check_texts, check_together, check_values
from treadle.plan.mistakes import Mistake, Mistakes
from treadle.plan.tree import Node


def check(root: Node) -> tuple[Spec | None, list[Mistake]]:
    """The sections, or every mistake in them."""
    if root.entries is None:
        words = f"the file is {root.in_words()}, not a mapping"
        return None, [Mistake(root.start, root.end, "", words, "it begins with `project: NAME`")]
    mistakes = Mistakes()
    settled = check_keys.settle(root, mistakes)
    spec = check_values.read(settled.tree, mistakes)
    check_texts.check(settled.tree, mistakes)
    check_together.check(settled.tree, settled.left_out, mistakes)
    return (None if mistakes.found else spec), mistakes.found
