"""What a batch environment of treadle.yaml says about itself and about the one it scores for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from treadle.base.spec import REMOTE
from treadle.plan.tree import Node

_CLUSTER = ("size", "s3", "deadline", "cpu", "memory")
"""Words that only a cluster understands."""
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_SHAPES = "claim://NAME/PATH or s3://BUCKET/PATH"


def mistakes(item: Node, deploy: Node) -> Iterator[tuple[str, str, str]]:
    """Which word is wrong, what about it, and the fix."""
    texts = {word: _text(item, word) for word in ("input", "output")}
    remote = {word: text for word, text in texts.items() if text and "://" in text}
    for word, text in remote.items():
        yield from _where(word, text)
    if len(remote) == 1 and all(texts.values()):
        (word,) = remote
        other = "output" if word == "input" else "input"
        yield other, f"`{word}` is on the cluster and `{other}` here", f"write {_SHAPES} for both"
    if not remote:
        for word in _CLUSTER:
            if item.get(word) is not None:
                words = f"`{word}` is for a batch on a cluster, and this one scores here"
                yield word, words, f"leave it out, or write {_SHAPES} for input and output"
        return
    of = _text(item, "of")
    chosen = deploy.get(of, "target") if of is not None else None
    if chosen is not None and chosen.value in ("process", "docker"):
        words = (
            f"`{of}` is no Kubernetes environment: no pod could read {next(iter(remote.values()))}"
        )
        yield "of", words, "name one with target: kubernetes, or files of this machine"
    kinds = {text.partition("://")[0] for text in remote.values()}
    if "s3" in kinds and item.get("s3") is None:
        yield "s3", "`s3://` needs a Secret with its keys", "write s3: {secret: NAME}"
    if "s3" not in kinds and item.get("s3") is not None:
        yield "s3", "neither input nor output is `s3://`", "leave it out"
    if "claim" not in kinds and item.get("size") is not None:
        yield "size", "neither input nor output is on a claim", "leave it out"
    yield from _schedule(_text(item, "at"))


def _where(word: str, text: str) -> Iterator[tuple[str, str, str]]:
    found = REMOTE.fullmatch(text)
    if found is None or not _CLAIM.fullmatch(found["name"]):
        yield word, f"`{text}` is neither {_SHAPES.replace(' or ', ' nor ')}", ""
        return
    path = found["path"]
    if ".." in path.split("/"):
        yield word, "a path may not lead out of its claim or bucket", "leave `..` out"
    elif word == "input" and (not path or path.endswith("/")):
        yield word, "`input` names files", f"write {text.rstrip('/')}/*.parquet"
    elif word == "output" and re.search(r"[*?\[]", path):
        yield word, "`output` is one file or a folder, and no pattern", "write a folder: …/"
    elif word == "output" and re.search(r"\.[A-Za-z0-9]+$", path) and not path.endswith(".parquet"):
        yield word, "scores are written as Parquet", "write ….parquet, or a folder"


def _schedule(at: str | None) -> Iterator[tuple[str, str, str]]:
    """What cron on this machine understands and Kubernetes does not."""
    if at is None:
        return
    from treadle.plan.schedule import parse

    try:
        fields = parse(at).cron.split()
    except ValueError:
        return  # said already
    if any(re.search(r"[L#W]", re.sub("[A-Z]{3}", "", one.upper())) for one in fields):
        yield "at", "Kubernetes knows no L, W and # in a time", "write days as numbers or names"
    elif re.search(r"(^|[,-])7", fields[4]):
        yield "at", "Kubernetes counts weekdays from 0 to 6", "write 0 for Sunday"


def _text(item: Node, word: str) -> str | None:
    node = item.get(word)
    return node.value if node is not None and isinstance(node.value, str) else None
