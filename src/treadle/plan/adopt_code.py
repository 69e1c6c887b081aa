"""`treadle init`, what a folder's Python says: which functions could be the pipeline. Runs nothing."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from treadle.plan.template import Guess

_HOLDOUTS = ("holdout", "heldout", "test", "validation", "valid", "evaluation")


@dataclass(frozen=True)
class Code:
    """A Python file whose functions could be the pipeline, read from its syntax tree."""

    file: str
    functions: tuple[str, ...]
    results: tuple[str, ...]
    """Function names and the fields of the NamedTuples that they return."""
    wanted: tuple[str, ...]
    """Parameters without a default that no function provides: names of data sets."""
    model: str | None
    holdout: str | None
    label: str | None
    features: tuple[str, ...] = ()
    """A constant FEATURES, where it is made of lists of texts."""


def read_folder(folder: Path, notes: list[Guess]) -> Code | None:
    """The first file at the folder's top that could be the pipeline: pipeline.py, or one with a model.

    What is passed over, and why, is added to `notes`.
    """
    if not folder.is_dir():
        return None
    names = sorted(path.name for path in folder.glob("*.py"))
    names.sort(key=lambda name: (name != "pipeline.py", name))
    for name in names:
        if name in ("setup.py", "conftest.py", "noxfile.py") or name.startswith("test_"):
            continue
        try:
            tree = ast.parse((folder / name).read_text("utf-8"))
        except (SyntaxError, ValueError, OSError) as error:
            if name == "pipeline.py":
                notes.append(Guess("pipeline", name, f"it is there and cannot be read: {error}"))
                return Code(name, (), (), (), None, None, None)
            continue
        code = _read_code(name, tree)
        if name == "pipeline.py":
            return code
        if code.functions and code.model is not None:
            if _has_effects(tree):
                words = "it acts when it is imported; move that under `if __name__ == '__main__':`"
                notes.append(Guess("pipeline", name, f"not taken: {words}"))
                continue
            return code
    return None


def _read_code(name: str, tree: ast.Module) -> Code:
    functions = [
        node for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]  # fmt: skip
    tuples = {
        node.name: [i.target.id for i in node.body
                    if isinstance(i, ast.AnnAssign) and isinstance(i.target, ast.Name)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)
    }  # fmt: skip
    results: list[str] = []
    model = None
    for node in functions:
        returned = ast.unparse(node.returns).strip("'\"") if node.returns else ""
        results += [node.name, *tuples.get(returned, [])]
        if model is None and re.search(r"Pipeline|Classifier|Regress|Estimator|Booster", returned):
            model = node.name
    named = [node.name for node in functions]
    for word in ("model", "fit", "train", "train_model", "fit_model"):
        if word in named and (model is None or word == "model"):
            model = word
            break
    wanted: dict[str, None] = {}
    for node in functions:
        arguments = [*node.args.posonlyargs, *node.args.args]
        required = arguments[: len(arguments) - len(node.args.defaults)]
        required += [
            a for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is None
        ]
        wanted |= {a.arg: None for a in required if a.arg not in results}
    label = None
    for item in tree.body:
        if (
            isinstance(item, ast.Assign)
            and isinstance(item.targets[0], ast.Name)
            and item.targets[0].id.upper()
            in ("LABEL", "TARGET", "LABEL_COLUMN", "TARGET_COLUMN", "Y")
            and isinstance(item.value, ast.Constant)
            and isinstance(item.value.value, str)
        ):
            label = item.value.value
    holdout = next((word for word in _HOLDOUTS if word in results), None)
    features = tuple(_lists(tree).get("FEATURES", ()))
    return Code(name, tuple(named), tuple(results), tuple(wanted), model, holdout, label, features)


def _lists(tree: ast.Module) -> dict[str, list[str]]:
    """The module's constants that are lists of texts, or sums of such."""
    known: dict[str, list[str]] = {}

    def value(node: ast.expr) -> list[str] | None:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = value(node.left), value(node.right)
            return None if left is None or right is None else left + right
        if isinstance(node, ast.List | ast.Tuple):
            texts = [e.value for e in node.elts if isinstance(e, ast.Constant)]
            return [str(t) for t in texts] if len(texts) == len(node.elts) else None
        return None

    for item in tree.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            found = value(item.value)
            if found is not None:
                known[item.targets[0].id] = found
    return known


def _has_effects(tree: ast.Module) -> bool:
    """Whether importing the module does more than define things."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign) and not any(
            isinstance(inner, ast.Call) for inner in ast.walk(node)
        ):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        return True
    return False
