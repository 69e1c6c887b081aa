"""`treadle init`: what a folder holds, and the first treadle.yaml that fits it. Writes nothing.

Every default carries its reason: a guess that is told can be corrected, a silent one cannot.
"""

from __future__ import annotations

import ast
import fnmatch
import keyword
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from treadle.base.errors import SpecError, UsageError
from treadle.plan import template
from treadle.plan.template import Guess

if TYPE_CHECKING:
    import polars as pl

SPEC_FILE = "treadle.yaml"
Query = Callable[[str, str], "pl.DataFrame"]
_SUFFIXES = {
    ".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "tsv", ".tsv.gz": "tsv",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_SKIPPED = {"node_modules", "__pycache__", "mlruns", "mlartifacts", "venv", "site-packages"}
_DIGITS = re.compile(r"\d[\d\-_.T]*(?<![\-_.])")
_LABELS = (
    "label", "target", "y", "outcome", "class", "churn", "churned", "survived", "fraud", "is_fraud",
    "default", "late", "delayed", "failed", "failure", "converted", "clicked", "price", "demand",
    "sales", "amount", "rating", "quality", "diagnosis", "species", "duration",
)  # fmt: skip
_TIMES = ("event_time", "timestamp", "datetime", "time", "date", "ts", "created_at", "occurred_at")
_HOLDOUTS = ("holdout", "heldout", "test", "validation", "valid", "evaluation")
_NOT_TRAINED_ON = ("truth", "actual", "outcome", "label", "test", "holdout", "later", "new")
_SAMPLE_ROWS = 10_000
_WHOLE_BYTES = 500_000_000
_MAX_FILES = 20_000


@dataclass(frozen=True)
class Found:
    """One data set that was found: a pattern and what a sample of its rows says."""

    name: str
    pattern: str
    files: tuple[str, ...] = ()
    size_bytes: int = 0
    database: str | None = None
    """The URL, where `pattern` is a query."""


@dataclass(frozen=True)
class Proposal:
    """What `init` would write; `write` renders it."""

    folder: Path
    project: str
    kind: Literal["existing", "adopted", "sample"]
    guesses: tuple[Guess, ...] = ()
    """In the order in which they are shown."""
    environment: str = "local"
    spec: template.SpecTexts | None = None
    pipeline: template.PipelineTexts | None = None
    """None: there is one."""
    extra: dict[str, str] = field(default_factory=dict)
    """Other new files (the sample's data, .gitignore)."""
    appends: dict[str, str] = field(default_factory=dict)
    """Lines for files that exist and would need them: the caller may add them, with a word."""


def detect(folder: Path, query: Query | None = None) -> Proposal:
    """Look at `folder` (it may not exist yet) and propose a project.

    query: reads (database URL, SQL) into a polars frame, where databases may be looked into.
    """
    project = _project_name(folder)
    if (folder / SPEC_FILE).exists():
        return _existing(folder, project)
    found, databases = _data(folder)
    notes: list[Guess] = []
    if not found and databases and query is not None:
        found = _tables(databases, query, notes)
    elif databases:
        notes += [
            Guess("database", url, "seen, not used: name a query for it") for url in databases
        ]
    seen = _Seen(folder, project, found, _code(folder, notes), notes, query)
    return _adopt(seen) if seen.found or seen.code is not None else _sample(seen)


@dataclass(frozen=True)
class _Seen:
    """All that was found in a folder."""

    folder: Path
    project: str
    found: list[Found]
    code: Code | None
    notes: list[Guess]
    query: Query | None


def write(proposal: Proposal) -> dict[str, str]:
    """Relative path → text of every file of the proposal; existing ones are for the caller to keep."""
    files: dict[str, str] = {}
    if proposal.spec is not None:
        files[SPEC_FILE] = template.spec(proposal.spec)
    if proposal.pipeline is not None:
        files["pipeline.py"] = template.pipeline(proposal.pipeline)
    return files | proposal.extra


def ci_workflow(service: str, project: str, environment: str = "local") -> tuple[str, str]:
    """(path, text) of the workflow for `github` or `gitlab`: at most 40 lines, the user's own."""
    if service not in template.WORKFLOWS:
        raise UsageError(
            f"there is no workflow for {service!r}", hint=f"one of {', '.join(template.WORKFLOWS)}"
        )
    path, text = template.WORKFLOWS[service]
    return path, text.replace("PROJECT", project).replace("ENVIRONMENT", environment)


# ---- the folder ----------------------------------------------------------------------------------


def _project_name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    name = name if name[:1].isalpha() else f"p-{name}".rstrip("-")
    return name[:63]


def _identifier(text: str, fallback: str) -> str:
    word = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or fallback
    word = f"d{word}" if word[0].isdigit() else word
    return f"{word}_rows" if keyword.iskeyword(word) else word


def _existing(folder: Path, project: str) -> Proposal:
    from treadle.plan.spec import load

    reason = f"{SPEC_FILE} is there: it stays as it is"
    try:
        spec = load(folder / SPEC_FILE)
    except SpecError as error:
        raise SpecError(
            f"{SPEC_FILE} is there and cannot be read, so nothing is proposed", error.mistakes
        ) from None
    guesses = (
        Guess("project", spec.project, reason),
        Guess("environment", spec.default_environment, "the first entry of deploy:"),
    )
    _, appends, _ = _git(folder)
    return Proposal(
        folder, spec.project or project, "existing", guesses, spec.default_environment,
        appends=appends,
    )  # fmt: skip


def _walk(folder: Path) -> Iterable[Path]:
    seen = 0
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(
            name for name in folders
            if depth < 5 and not name.startswith(".") and name not in _SKIPPED
            and not (Path(here) / name / "pyvenv.cfg").exists()
        )  # fmt: skip
        for name in sorted(files):
            seen += 1
            if seen > _MAX_FILES:
                return
            if not name.startswith("."):
                yield Path(here) / name


def _suffix(name: str) -> str | None:
    lower = name.lower()
    return next((s for s in sorted(_SUFFIXES, key=len, reverse=True) if lower.endswith(s)), None)


def _data(folder: Path) -> tuple[list[Found], list[str]]:
    """Data sets by their files, biggest first, and databases by their first bytes."""
    groups: dict[tuple[str, str], list[Path]] = {}
    databases: list[str] = []
    for path in _walk(folder):
        relative = path.relative_to(folder)
        suffix = _suffix(path.name)
        if suffix is None:
            url = _database(path, relative)
            databases += [url] if url else []
            continue
        stem = path.name[: -len(suffix)]
        parent = _DIGITS.sub("*", relative.parent.as_posix())
        groups.setdefault((parent, _DIGITS.sub("*", stem) + suffix), []).append(path)
    names = [p.relative_to(folder).as_posix() for paths in groups.values() for p in paths]
    found: list[Found] = []
    taken: set[str] = set()
    for (parent, pattern), paths in groups.items():
        files = tuple(path.relative_to(folder).as_posix() for path in paths)
        whole = pattern if parent == "." else f"{parent}/{pattern}"
        if len(files) == 1:
            whole = files[0]
        elif sum(fnmatch.fnmatchcase(name, whole) for name in names) > len(files):
            whole = whole.replace("*", "[0-9]*")  # a sister such as flights-old.csv stays out
        stem = pattern[: -len(_suffix(pattern) or "")].replace("*", " ")
        above = Path(parent).name
        fallback = (
            above if above not in ("", "data") else _identifier(_project_name(folder), "rows")
        )
        name = _identifier(stem, _identifier(fallback, "rows"))
        while name in taken:
            name += "_2"
        taken.add(name)
        found.append(Found(name, whole, files, sum(path.stat().st_size for path in paths)))
    found.sort(key=lambda one: (_is_other(one.name), -one.size_bytes, one.pattern))
    return found, databases


def _is_other(name: str) -> bool:
    """Whether a data set's name says that it is not what a model learns from."""
    return any(word in name.split("_") or word == name.rstrip("s") for word in _NOT_TRAINED_ON)


def _database(path: Path, relative: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return None
    if head.startswith(b"SQLite format 3\x00"):
        return f"sqlite:///{relative.as_posix()}"
    return f"duckdb:///{relative.as_posix()}" if head[8:12] == b"DUCK" else None


def _tables(databases: list[str], query: Query, notes: list[Guess]) -> list[Found]:
    found: list[Found] = []
    for url in databases:
        listing = "SELECT table_name AS name FROM information_schema.tables ORDER BY 1"
        if url.startswith("sqlite:"):
            listing = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
        try:
            for table in query(url, listing)["name"].to_list():
                quoted = '"' + str(table).replace('"', '""') + '"'
                rows = int(query(url, f"SELECT COUNT(*) AS n FROM {quoted}")["n"][0])
                name = _identifier(str(table), "rows")
                found.append(Found(name, f"SELECT * FROM {quoted}", (), rows, url))
        except Exception as error:  # whatever a driver says about this file, it is only a guess
            notes.append(Guess("database", url, f"it cannot be read: {error}"))
    return sorted(found, key=lambda one: (_is_other(one.name), -one.size_bytes))


def _git(folder: Path) -> tuple[dict[str, str], dict[str, str], bool]:
    """(new files, lines to append, whether it is a git work tree) for what git must not see."""
    at = folder.resolve()
    git = any((place / ".git").exists() for place in (at, *at.parents))
    path = folder / ".gitignore"
    if not path.exists():
        return {".gitignore": template.GITIGNORE}, {}, git
    try:
        lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return {}, {}, git
    known = any(line.strip("/") == ".treadle" for line in lines)
    return {}, ({} if known else {".gitignore": ".treadle/"}), git


# ---- code ----------------------------------------------------------------------------------------


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


def _code(folder: Path, notes: list[Guess]) -> Code | None:
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


# ---- rows ----------------------------------------------------------------------------------------


def _frame(
    folder: Path, found: Found, query: Query | None, rows: int | None
) -> pl.DataFrame | None:
    """The first `rows` rows of a data set (None: all), or None where it cannot be read."""
    import polars as pl

    try:
        if found.database is not None:
            assert query is not None
            limit = "" if rows is None else f" LIMIT {rows}"
            return query(found.database, found.pattern + limit)
        files = [folder / name for name in found.files]
        form = _SUFFIXES[_suffix(files[0].name) or ".csv"]
        if form == "parquet":
            lazy = pl.concat([pl.scan_parquet(file) for file in files], how="diagonal_relaxed")
            return (lazy if rows is None else lazy.head(rows)).collect()
        frames: list[pl.DataFrame] = []
        for file in files:
            if form == "jsonl":
                frames.append(pl.read_ndjson(file, infer_schema_length=None, n_rows=rows))
            else:
                frames.append(pl.read_csv(
                    file, separator="\t" if form == "tsv" else ",", n_rows=rows,
                    try_parse_dates=True, null_values=["NA", "N/A", "NULL", "null", "NaN", "nan"],
                    infer_schema_length=_SAMPLE_ROWS,
                ))  # fmt: skip
            if rows is not None and sum(frame.height for frame in frames) >= rows:
                break
        frame = pl.concat(frames, how="diagonal_relaxed")
        return frame if rows is None else frame.head(rows)
    except (
        Exception
    ):  # a guess about a file that cannot be read is no guess; the first turn says why
        return None


def _shape(  # the rows of the main data set in words of the spec
    folder: Path, found: Found, code: Code | None, query: Query | None
) -> template.Shape:
    frame = _frame(folder, found, query, _SAMPLE_ROWS)
    whole = frame
    if found.size_bytes <= _WHOLE_BYTES and frame is not None and frame.height >= _SAMPLE_ROWS:
        whole = _frame(folder, found, query, None)
    if frame is None or whole is None or not frame.width or not frame.height:
        return template.Shape(label=Guess("label", "label", "the data cannot be read: name it"))
    time = _event_time(frame)
    key = _key(whole, time.value if time else None)
    label = _label(frame, code, [*(key.value if key else []), time.value if time else ""])
    task = _task(frame, label.value)
    later = _known_later(frame, label.value, task.value)
    left = {label.value, *(key.value if key else []), *later, time.value if time else ""}
    numbers, texts, dropped = _features(frame, left)
    if code is not None:  # the code's own choice; without one, whatever the model was fitted on
        chosen = [n for n in code.features if n in frame.columns and n not in later]
        numbers, texts = [], [n for n in dict.fromkeys(chosen) if n != label.value]
        dropped = []
    reason = "an allow-list: " + (f"left out are {', '.join(dropped)}" if dropped else "all others")
    return template.Shape(
        rows=whole.height if whole.height > frame.height or frame.height < _SAMPLE_ROWS else None,
        key=key, event_time=time, label=label, task=task,
        known_later=Guess("known_later", later, "they tell the label alone: known only afterwards?")
        if later else None,
        features=Guess("features", [*texts, *numbers], reason if code is None else
                       f"{code.file}: FEATURES") if texts or numbers else None,
        numbers=tuple(numbers), texts=tuple(texts),
        blocks=_blocks(whole, time.value) if time else None,
        label_type=_label_type(frame, label.value),
    )  # fmt: skip


def _event_time(frame: pl.DataFrame) -> Guess | None:
    temporal = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    temporal = [name for name in temporal if str(frame.schema[name]).startswith("Date")]
    if not temporal:
        return None
    for word in _TIMES:
        if word in (name.lower() for name in temporal):
            name = next(name for name in temporal if name.lower() == word)
            return Guess("event_time", name, "a time by its name and type: it orders the rows")
    if len(temporal) == 1:
        return Guess("event_time", temporal[0], "the only time column: it orders the rows")
    others = ", ".join(temporal[1:])
    return Guess("event_time", temporal[0], f"the first time column (others: {others})")


def _key(frame: pl.DataFrame, time: str | None) -> Guess | None:
    ids = [
        name for name, kind in frame.schema.items()
        if (kind.is_integer() or str(kind) == "String")
        and re.fullmatch(r"id|.*_id|id_.*|uuid|key|.*_key|.*_no|.*_number", name.lower())
    ]  # fmt: skip
    rows = f"{frame.height:,}"
    for columns in [[name] for name in ids] + [[name, time] for name in ids if time]:
        some = frame.select(columns)
        if some.null_count().sum_horizontal()[0] == 0 and some.n_unique() == frame.height:
            return Guess("key", columns, f"unique in the {rows} rows that were read")
    return None


def _label(frame: pl.DataFrame, code: Code | None, taken: list[str]) -> Guess:
    columns = [name for name in frame.columns if name not in taken]
    if code is not None and code.label in columns:
        return Guess("label", code.label, f"{code.file} calls it so")
    lower = {name.lower(): name for name in reversed(columns)}
    for word in _LABELS:
        if word in lower:
            return Guess(
                "label", lower[word], "by its name; correct it if another is to be predicted"
            )
    for prefix in ("is_", "has_", "will_", "target_", "label_"):
        for name in columns:
            if name.lower().startswith(prefix) and frame[name].drop_nulls().n_unique() == 2:
                return Guess("label", name, "two values, by its name; correct it if it is another")
    booleans = [name for name in columns if str(frame.schema[name]) == "Boolean"]
    if booleans:
        return Guess(
            "label", booleans[-1], "the last yes-or-no column; correct it if it is another"
        )
    plain = [name for name in columns if frame.schema[name].is_numeric()] or columns
    name = plain[-1] if plain else frame.columns[-1]
    return Guess("label", name, "the last column; correct it if another is to be predicted")


def _task(frame: pl.DataFrame, label: str) -> Guess:
    values = frame[label].drop_nulls()
    count = values.n_unique()
    kind = values.dtype
    if count <= 2:
        shown = ", ".join(str(value) for value in values.unique().sort().to_list())
        return Guess("task", "binary", f"{label} has the values {shown}")
    if not kind.is_numeric():
        return Guess("task", "multiclass", f"{label} is text with {count} values")
    whole = kind.is_integer() and int(values.max()) - int(values.min()) + 1 == count  # type: ignore[arg-type]
    if whole and count <= 12 and values.len() > 20 * count:
        return Guess("task", "multiclass", f"{label} has {count} whole values in a row")
    return Guess("task", "regression", f"{label} is a number with {count} values")


def _known_later(frame: pl.DataFrame, label: str, task: str) -> list[str]:
    """Numeric columns that tell the label alone: nobody is that lucky before the fact."""
    import polars as pl

    clean = frame.filter(pl.col(label).is_not_null())
    found: list[str] = []
    for name, kind in frame.schema.items():
        if name == label or not kind.is_numeric():
            continue
        pair = (
            clean.select(name, label).drop_nulls().filter(pl.col(name).cast(pl.Float64).is_finite())
        )
        if pair.height < 50 or pair[name].n_unique() < 3:
            continue
        if task == "regression":
            strength = pair.select(pl.corr(name, label)).item()
            if strength is not None and abs(strength) > 0.9999:
                found.append(name)
        elif task == "binary":
            ranks, truth = pair[name].rank(), pair[label] == pair[label].max()
            ones = int(truth.sum())
            zeros = pair.height - ones
            if min(ones, zeros) < 10:
                continue
            # Mann-Whitney: the probability that a random one ranks above a random zero.
            area = (float(ranks.filter(truth).sum()) - ones * (ones + 1) / 2) / (ones * zeros)
            if max(area, 1 - area) > 0.999:
                found.append(name)
    return found


def _features(frame: pl.DataFrame, left: set[str]) -> tuple[list[str], list[str], list[str]]:
    """(numbers, texts, left out) among the columns that are not already something else."""
    numbers: list[str] = []
    texts: list[str] = []
    dropped: list[str] = []
    for name, kind in frame.schema.items():
        if name in left:
            continue
        values = frame[name]
        if kind.is_numeric() or (str(kind) == "Boolean" and values.null_count() == 0):
            identifies = re.fullmatch(r"id|.*_id|uuid", name.lower()) and kind.is_integer()
            (dropped if identifies else numbers).append(name)
        elif str(kind) in ("String", "Boolean", "Categorical") or str(kind).startswith("Enum"):
            unique = values.drop_nulls().n_unique()
            (dropped if unique > max(50, values.len() // 2) else texts).append(name)
        else:
            dropped.append(name)
    return numbers, texts, dropped


def _blocks(frame: pl.DataFrame, time: str) -> str | None:
    """A day, or else an hour, where a fifth of the time (the holdout) has ten such blocks."""
    import polars as pl

    times = frame[time].drop_nulls().cast(pl.Datetime("us"))
    if times.len() < 2:
        return None
    span_s = (times.max() - times.min()).total_seconds()  # type: ignore[operator, union-attr]
    for text, seconds in (("1d", 86400.0), ("1h", 3600.0)):
        if span_s * 0.2 / seconds >= 10:
            return text
    return None


def _label_type(frame: pl.DataFrame, label: str) -> str:
    kind = frame.schema[label]
    if str(kind) == "Boolean":
        return "int8"
    return "int64" if kind.is_integer() else ""


# ---- proposals -----------------------------------------------------------------------------------


def _sample(seen: _Seen) -> Proposal:
    """A whole small project with data that a formula made, so that the first turn can be tried."""
    ignored, appends, _ = _git(seen.folder)
    folder, project = seen.folder, seen.project
    shape = template.SAMPLE_SHAPE(Guess)
    data = template.sample_data()
    spec = template.SpecTexts(
        project, "pipeline.py", "deliveries", "data/deliveries-*.csv", None, shape,
        Guess("model", "model", "pipeline.py: model()"),
        Guess("holdout", "holdout", "pipeline.py: split()"), floor=0.6,
    )  # fmt: skip
    guesses = (
        Guess("project", project, "the folder's name"),
        Guess("sample", "deliveries", "no data and no pipeline was found: a made-up example to begin with"),
        *seen.notes,
    )  # fmt: skip
    pipeline = template.PipelineTexts("deliveries", shape)
    return Proposal(
        folder, project, "sample", guesses, "local", spec, pipeline, {**data, **ignored}, appends
    )


def _adopt(seen: _Seen) -> Proposal:
    """The spec that fits what is there, and a pipeline where there is none."""
    folder, project, found, code = seen.folder, seen.project, seen.found, seen.code
    ignored, appends, git = _git(folder)
    guesses = [Guess("project", project, "the folder's name")]
    main = found[0] if found else Found("rows", "data/*.parquet")
    data_reason = f"{len(main.files)} files" if len(main.files) > 1 else "the only file like it"
    if main.database:
        data_reason = f"the biggest table of {main.database}"
    if not found:
        data_reason = "no data file was found: name yours"
    elif len(found) > 1:
        data_reason += f"; also seen: {', '.join(one.pattern for one in found[1:4])}"
    names = {one.name for one in found}
    others: list[Found] = []
    if code is not None and code.wanted:
        free = [name for name in code.wanted if name not in names]
        if main.name not in code.wanted and free:
            data_reason += f"; called {free[0]} because {code.file} takes it by that name"
            main = Found(free[0], main.pattern, main.files, main.size_bytes, main.database)
        others = [one for one in found[1:] if one.name in code.wanted]
    shape = _shape(folder, main, code, seen.query) if found else template.Shape(
        label=Guess("label", "label", "no data was found: name the column to predict")
    )  # fmt: skip
    if code is not None and code.label and not found:
        shape = template.Shape(label=Guess("label", code.label, f"{code.file} calls it so"))
    pipeline: template.PipelineTexts | None = None
    if code is None:
        pipeline = template.PipelineTexts(main.name, shape)
        result = Guess("model", "model", "pipeline.py: model(), written for these columns")
        holdout = Guess("holdout", "holdout", "pipeline.py: split()")
        guesses.append(Guess("pipeline", "pipeline.py", "there is none: a working one is written"))
    else:
        guesses.append(Guess("pipeline", code.file, f"its functions: {', '.join(code.functions)}"))
        result = Guess(
            "model", code.model or "model",
            f"{code.file}: {code.model}()" if code.model
            else f"{code.file} has no function by such a name: name the one that returns the model",
        )  # fmt: skip
        holdout = Guess(
            "holdout", code.holdout or "holdout",
            f"a result of {code.file}" if code.holdout
            else f"{code.file} has no such result: name the one that holds the rows to judge on",
        )  # fmt: skip
    guesses.append(Guess(f"data.{main.name}", main.pattern, data_reason))
    guesses += [g for g in (shape.key, shape.event_time, shape.label, shape.task, shape.known_later,
                            shape.features) if g is not None]  # fmt: skip
    guesses += [result, holdout, *seen.notes]
    if git:
        guesses.append(Guess("git", "yes", "commits are recorded with each run"))
    if appends:
        guesses.append(
            Guess(".gitignore", ".treadle/", "the state does not belong into git: add this line")
        )
    spec = template.SpecTexts(
        project, code.file if code else "pipeline.py", main.name, main.pattern, main.database, shape,
        result, holdout, others=tuple((one.name, one.pattern) for one in others),
        rows_note=data_reason,
    )  # fmt: skip
    return Proposal(
        folder, project, "adopted", tuple(guesses), "local", spec, pipeline, dict(ignored), appends
    )
