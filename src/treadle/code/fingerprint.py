"""What the user's functions are, from their syntax trees alone: nothing of the user is imported.

Every module of the project is cut into *units*: its top-level statements. A unit knows the names it
binds, the global names (with their attributes) it uses, and the digest of its normalised tree:
comments, formatting and docstrings do not count, everything else does. The fingerprint of a step
is the digest of its own unit and of every unit that it reaches:

- names are resolved by Python's scoping rules, through imports, into other modules of the project;
- a class counts whole; so does every class of the project that defines an attribute of a name that
  the step uses on anything (`x.fit()`: x may be one of them);
- statements that do something when a module is imported count for every step;
- a function that changes a global counts wherever that global is used;
- where names are made at run time (`getattr` with a computed name, `globals()`, `exec`, a star
  import …) all modules that the pipeline imports count; with `importlib` the whole project does.

Where this cannot be exact it counts too much: a step may run once more, never once too few.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.digest import digest, digest_bytes
from treadle.base.errors import PipelineError
from treadle.code.packages import Packages

FORMAT = 1
"""Part of every digest here: raise it when the meaning of a fingerprint changes."""

Chain = tuple[str, ...]

# ---- what the rest of the phase sees -------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function."""

    name: str
    line: int
    annotation: str = ""
    """As written, without quotes: `pd.DataFrame`."""
    frame: str = "pandas"
    """Which library's frame a data set is handed over as: `pandas` or `polars`."""
    has_default: bool = False
    default: Any = None
    literal: bool = True
    """False: there is a default which is no literal."""


@dataclass(frozen=True)
class Impurity:
    """A call whose answer differs from run to run though no input did."""

    function: str
    file: str
    line: int
    what: str
    """`reads the clock: time.time()`"""


@dataclass(frozen=True)
class Function:
    """A top-level function of the pipeline file."""

    name: str
    line: int
    parameters: tuple[Parameter, ...]
    results: tuple[str, ...]
    """Names of its results: the fields of a NamedTuple, else the function's own name."""
    named: bool
    """Whether the results are the fields of a NamedTuple."""
    digest: str
    packages: dict[str, str]
    """Installed package → version, or the digest of its source where it is editable."""
    impurities: tuple[Impurity, ...] = ()
    reads: tuple[str, ...] = ()
    """Constant paths that it opens itself."""
    refused: str = ""
    """Why it cannot be a step: `*rows` …, or nothing."""
    again: int = 0
    """The line of a second definition of the same name, or 0."""


@dataclass(frozen=True)
class Sources:
    """All functions of a pipeline file, and the files that were read to know them."""

    folder: Path
    file: Path
    functions: dict[str, Function]
    files: dict[str, str]
    """Absolute path of every project file read → digest of its bytes."""
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"

    @property
    def where(self) -> str:
        """The pipeline file as people name it: relative to the project."""
        return shown(self.file, self.folder)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that project modules are imported from, in order."""
        return roots_of(self.folder, self.file)

    @property
    def digest(self) -> str:
        """One digest over the fingerprints of all functions."""
        return digest({name: function.digest for name, function in self.functions.items()})


def roots_of(folder: Path, file: Path) -> tuple[Path, ...]:
    """The folders that project modules are imported from: the pipeline's, then the project's."""
    return (file.parent,) if file.parent == folder else (file.parent, folder)


def shown(path: Path, folder: Path) -> str:
    """`path` relative to the project where it lies in it."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return str(path)


def project(folder: Path, pipeline_file: str | Path) -> Sources:
    """Read a pipeline file and all project code it may reach.

    Raises PipelineError where a file is missing or is no Python (with file:line and a caret).
    """
    folder = Path(os.path.abspath(folder))
    file = Path(os.path.abspath(folder / pipeline_file))
    return _Project(folder, file).sources()


# ---- one statement -------------------------------------------------------------------------------


@dataclass
class _Call:
    chain: Chain
    line: int
    arguments: int
    keywords: frozenset[str]
    first: str | None
    """The first argument where it is a constant text."""


@dataclass
class _Unit:
    """One top-level statement of a module."""

    line: int
    kind: str
    """def, class, assign or other"""
    node: ast.stmt
    digest: str = ""
    binds: set[str] = field(default_factory=set)
    uses: set[Chain] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    calls: list[_Call] = field(default_factory=list)
    writes: set[Chain] = field(default_factory=set)
    """Globals that a function stores into or deletes from."""
    mutates: set[Chain] = field(default_factory=set)
    """Globals that a function calls a method of which sounds like a change: `append`."""
    imports: dict[str, list[Chain]] = field(default_factory=dict)
    """Local name → what it may stand for: ("module",) or ("module", "name")."""
    members: set[str] = field(default_factory=set)
    """Names that a class defines."""
    always: bool = False
    wide: str = ""
    """"modules" or "project" where the names it uses are made at run time."""
    reflects: bool = False
    """Looks at documentation or source text: then these count too."""


_SKIPPED_FIELDS = {"ctx", "type_comment", "kind", "type_ignores"}
_WIDE_NAMES = {"globals", "locals", "vars", "exec", "eval", "compile"}
_WIDE_ATTRIBUTES = {"__dict__", "__subclasses__", "__globals__", "__code__", "__getattr__",
                    "__mro__", "__bases__", "attrgetter", "methodcaller", "modules"}  # fmt: skip
_PROJECT_WIDE = {"importlib", "runpy", "pkgutil", "imp", "zipimport", "cloudpickle", "dill"}
_MUTATORS = {"append", "extend", "insert", "update", "setdefault", "pop", "popitem", "remove",
             "clear", "add", "discard", "appendleft", "extendleft", "popleft", "sort", "reverse",
             "register", "__setitem__", "set", "put", "push", "difference_update",
             "intersection_update", "subtract"}  # fmt: skip
_PURE_CALLS = {"frozenset", "set", "dict", "list", "tuple", "range", "len", "sorted", "min", "max",
               "sum", "str", "int", "float", "bool", "round", "abs", "zip", "enumerate", "Path",
               "PurePath", "compile", "TypeVar", "ParamSpec", "NewType", "NamedTuple", "namedtuple",
               "getLogger", "Timedelta", "timedelta", "Timestamp", "date", "datetime", "Decimal",
               "partial", "Counter", "OrderedDict", "defaultdict", "array", "dirname", "join",
               "itemgetter", "resolve", "items", "keys", "values", "split", "Fraction"}  # fmt: skip
_DOCUMENTED = {"__doc__", "getdoc", "getsource", "getsourcelines", "getcomments", "cleandoc"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp,
           ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class _Reader:
    """Walks one statement once: normalised text, names by scope, calls and writes."""

    def __init__(self, unit: _Unit, package: Chain, *, documented: bool) -> None:
        self.unit = unit
        self.package = package
        self.documented = documented
        self.out: list[str] = []
        self.scopes: list[set[str]] = []

    def read(self, node: ast.AST) -> None:
        """Fill the unit from its statement."""
        self.visit(node)
        self.unit.digest = digest_bytes("\x00".join(self.out).encode("utf-8", "surrogatepass"))

    # -- names

    def is_local(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def use(self, chain: Chain) -> None:
        self.unit.uses.add(chain)
        if len(chain) == 1 and chain[0] in _WIDE_NAMES:
            self.unit.wide = self.unit.wide or "modules"
        if chain[0] in _PROJECT_WIDE or chain[0] == "__import__":
            self.unit.wide = "project"

    def visit(self, node: Any) -> None:
        """Emit one node; the scoping of names is kept on the way."""
        kind = node.__class__
        if kind is ast.Constant:
            self.out.append(repr(node.value))
            return
        self.out.append(kind.__name__)
        if kind is ast.Name:
            self.out.append(node.id)
            if node.id == "__doc__":
                self.unit.reflects = True
            if not self.is_local(node.id):
                if isinstance(node.ctx, ast.Load):
                    self.use((node.id,))
                elif not self.scopes:
                    self.unit.binds.add(node.id)
            return
        if kind is ast.Attribute:
            self.attribute(node)
            return
        if kind is ast.Call:
            self.call(node)
        elif kind is ast.Subscript and not isinstance(node.ctx, ast.Load):
            self.write(node.value)
        elif kind in (ast.Import, ast.ImportFrom):
            self.imported(node)
        elif kind in (ast.Global, ast.Nonlocal):
            if kind is ast.Global:
                for name in node.names:
                    self.use((name,))
                    self.unit.writes.add((name,))
        elif (
            kind in (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
            and not self.scopes
            and node.name
        ):
            self.unit.binds.add(node.name)
        if isinstance(node, _SCOPES):
            self.scope(node)
            return
        self.fields(node)

    def fields(self, node: Any, skip: Iterable[str] = ()) -> None:
        for name in node._fields:
            if name in _SKIPPED_FIELDS or name in skip:
                continue
            value = getattr(node, name, None)
            if value is None:
                self.out.append("-")
            elif isinstance(value, list):
                self.out.append("[")
                for item in value:
                    if (
                        item.__class__ is ast.Expr
                        and item.value.__class__ is ast.Constant
                        and not self.documented
                    ):
                        continue  # a docstring, or a text that stands for a comment
                    if isinstance(item, ast.AST):
                        self.visit(item)
                    else:
                        self.out.append(repr(item))
                self.out.append("]")
            elif isinstance(value, ast.AST):
                self.visit(value)
            else:
                self.out.append(repr(value))

    def scope(self, node: Any) -> None:
        """A function, class, lambda or comprehension: outer parts outside, the rest inside."""
        if isinstance(node, ast.ClassDef):
            if not self.scopes:
                self.unit.binds.add(node.name)
            # Names bound in a class body are not seen from its methods, and a use in the body may
            # come before: all stay global uses, which counts too much at worst.
            members = _bound(node.body)
            self.unit.members |= members
            for statement in ast.walk(node):  # attributes set on self are members too
                if isinstance(statement, ast.Attribute) and isinstance(statement.ctx, ast.Store):
                    self.unit.members.add(statement.attr)
            self.scopes.append(set())
            self.fields(node)
            self.scopes.pop()
            return
        if isinstance(node, _COMPREHENSIONS):
            bound: set[str] = set()
            for generator in node.generators:
                bound |= _targets(generator.target)
            self.scopes.append(bound)
            self.fields(node)
            self.scopes.pop()
            return
        if isinstance(node, ast.Lambda):
            for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]:
                self.visit(default)
            self.scopes.append(_arguments(node.args))
            self.fields(node)
            self.scopes.pop()
            return
        if not self.scopes:
            self.unit.binds.add(node.name)
        # Decorators, defaults and annotations are evaluated outside.
        for outer in _outside(node):
            self.visit(outer)
        inside = _arguments(node.args) | _bound(node.body)
        globals_ = {n for s in ast.walk(node) if isinstance(s, ast.Global) for n in s.names}
        self.scopes.append(inside - globals_)
        self.fields(node, skip=("decorator_list", "returns"))
        self.scopes.pop()

    # -- attributes, calls, writes, imports

    def attribute(self, node: ast.Attribute) -> None:
        self.out.append(node.attr)
        self.unit.attributes.add(node.attr)
        if node.attr in _WIDE_ATTRIBUTES:
            self.unit.wide = self.unit.wide or "modules"
        if node.attr in _DOCUMENTED:
            self.unit.reflects = True
        if not isinstance(node.ctx, ast.Load):
            self.write(node.value)
        chain = _chain(node)
        if chain and not self.is_local(chain[0]):
            self.use(chain)
            self.out.extend(chain)
            return
        self.visit(node.value)

    def call(self, node: ast.Call) -> None:
        chain = _chain(node.func)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            self.write(node.func.value, self.unit.mutates)
        if chain and chain[-1] in ("getattr", "setattr", "delattr", "hasattr"):
            named = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if not named:
                self.unit.wide = self.unit.wide or "modules"
            else:
                self.unit.attributes.add(str(node.args[1].value))  # type: ignore[attr-defined]
                self.named_attribute(node, chain[-1])
        if chain is None and isinstance(node.func, ast.Attribute):
            chain = ("?", node.func.attr)
        elif chain and self.is_local(chain[0]):
            chain = ("?", *chain[1:])
        if chain:
            first = node.args[0] if node.args else None
            text = first.value if isinstance(first, ast.Constant) else None
            keywords = frozenset(word.arg or "**" for word in node.keywords)
            self.unit.calls.append(
                _Call(chain, node.lineno, len(node.args), keywords,
                      text if isinstance(text, str) else None)
            )  # fmt: skip

    def named_attribute(self, node: ast.Call, how: str) -> None:
        """`getattr(module, "make")` is `module.make`; `setattr` is a write."""
        owner = _chain(node.args[0])
        if how != "getattr":
            self.write(node.args[0])
        elif owner and not self.is_local(owner[0]):
            self.use((*owner, str(node.args[1].value)))  # type: ignore[attr-defined]

    def write(self, target: ast.AST, into: set[Chain] | None = None) -> None:
        while isinstance(target, ast.Subscript | ast.Call):
            target = target.value if isinstance(target, ast.Subscript) else target.func
        chain = _chain(target)
        if chain and not self.is_local(chain[0]) and self.scopes:
            (self.unit.writes if into is None else into).add(chain)

    def imported(self, node: ast.Import | ast.ImportFrom) -> None:
        imports = self.unit.imports
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = tuple(alias.name.split("."))
                name = alias.asname or whole[0]
                target = (".".join(whole),) if alias.asname else (whole[0],)
                imports.setdefault(name, []).append(target)
                if not alias.asname and len(whole) > 1:
                    imports.setdefault("." + alias.name, []).append((alias.name,))
                self.use((name, *whole[1:]) if not alias.asname else (name,))
                if whole[0] in _PROJECT_WIDE:
                    self.unit.wide = "project"
            return
        module = node.module or ""
        if node.level:
            base = self.package[: len(self.package) - (node.level - 1)]
            module = ".".join([*base, *([module] if module else [])])
        if module.split(".")[0] in _PROJECT_WIDE:
            self.unit.wide = "project"
        for alias in node.names:
            name = alias.asname or alias.name
            imports.setdefault(name, []).append((module, alias.name))
            if alias.name in _DOCUMENTED:
                self.unit.reflects = True
            if self.scopes and name != "*":
                self.use((name,))


def _chain(node: ast.AST) -> Chain | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _outside(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    arguments = node.args
    yield from node.decorator_list
    yield from arguments.defaults
    yield from (value for value in arguments.kw_defaults if value is not None)
    for argument in _all_arguments(arguments):
        if argument.annotation is not None:
            yield argument.annotation
    if node.returns is not None:
        yield node.returns


def _all_arguments(arguments: ast.arguments) -> list[ast.arg]:
    more = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *more]


def _arguments(arguments: ast.arguments) -> set[str]:
    return {argument.arg for argument in _all_arguments(arguments)}


def _targets(node: ast.AST) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def _bound(body: list[ast.stmt]) -> set[str]:
    """Names that a block binds in its own scope (imports aside: they are followed instead)."""
    names: set[str] = set()
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                names.add(node.id)
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, _COMPREHENSIONS):
            # A walrus inside binds out here; its other names are its own.
            names |= {w.target.id for w in ast.walk(node) if isinstance(w, ast.NamedExpr)}
            continue
        if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        if isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
        stack.extend(ast.iter_child_nodes(node))
    return names


# ---- one module ----------------------------------------------------------------------------------


@dataclass
class _Module:
    name: str
    path: Path
    units: list[_Unit]
    symbols: dict[str, list[int]]
    """Name → the units that bind it."""
    imports: dict[str, list[Chain]]
    """Name → what the module's own imports make it."""
    futures: tuple[str, ...]
    stars: list[str]


def _never_runs(statement: ast.stmt) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":` are not executed by an import."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return False
    test = statement.test
    chain = _chain(test)
    if chain and chain[-1] == "TYPE_CHECKING":
        return True
    return (
        isinstance(test, ast.Compare)
        and _chain(test.left) == ("__name__",)
        and len(test.ops) == 1
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == "__main__"
    )


def _parse(data: bytes, shown_path: str) -> ast.Module:
    try:
        return ast.parse(data, filename=shown_path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        text = (getattr(error, "text", None) or "").rstrip("\n")
        column = getattr(error, "offset", None) or 1
        caret = f"\n  {text}\n  {' ' * (column - 1)}^" if text else ""
        message = getattr(error, "msg", None) or str(error)
        raise PipelineError(f"{shown_path}:{line}: this is no Python: {message}{caret}") from error


def _read_module(name: str, path: Path, tree: ast.Module, *, documented: bool) -> _Module:
    package = tuple(name.split("."))
    package = package if path.name == "__init__.py" else package[:-1]
    module = _Module(name, path, [], {}, {}, (), [])
    futures: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if _never_runs(statement):
            continue
        kind = "other"
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "def"
        elif isinstance(statement, ast.ClassDef):
            kind = "class"
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            kind = "import"
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            kind = "assign"
        unit = _Unit(statement.lineno, kind, statement)
        _Reader(unit, package, documented=documented).read(statement)
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            futures += [alias.name for alias in statement.names]
            continue
        if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While | ast.Match):
            unit.binds |= _bound([statement])
        for local, targets in unit.imports.items():
            if kind not in ("def", "class"):
                module.imports.setdefault(local, []).extend(targets)
            if local == "*":
                module.stars += [target[0] for target in targets]
        if kind == "import":
            unit.binds = set()
        unit.always = _acts(unit)
        index = len(module.units)
        module.units.append(unit)
        for bound in unit.binds:
            module.symbols.setdefault(bound, []).append(index)
    module.futures = tuple(futures)
    return module


def _acts(unit: _Unit) -> bool:
    """Whether a statement may do more at import than bind names."""
    if unit.kind in ("def", "import"):
        return False
    if unit.kind == "class":
        return any(word.arg == "metaclass" for word in unit.node.keywords)  # type: ignore[attr-defined]
    if unit.kind == "assign":
        targets = getattr(unit.node, "targets", None) or [unit.node.target]  # type: ignore[attr-defined]
        if any(not isinstance(t, ast.Name | ast.Tuple | ast.List) for t in targets):
            return True
        return any(call.chain[-1] not in _PURE_CALLS for call in unit.calls)
    return True


# ---- the project ---------------------------------------------------------------------------------

_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
_Place = tuple[str, int]
"""A unit: module name and index."""


class _Project:
    def __init__(self, folder: Path, file: Path) -> None:
        self.folder = folder
        self.file = file
        self.roots = roots_of(folder, file)
        self.trees: dict[str, tuple[Path, ast.Module]] = {}
        self.modules: dict[str, _Module] = {}
        self.files: dict[str, str] = {}
        self.found: dict[str, Path | None] = {}
        self.packages = Packages(self.roots)
        self.main = file.stem
        self.trail: set[str] = set()
        """Which import leads where, of the reach that is under way."""

    # -- finding and reading

    def sources(self) -> Sources:
        """Everything, once."""
        if not self.file.is_file():
            raise PipelineError(
                f"there is no {shown(self.file, self.folder)}",
                hint="`pipeline:` in treadle.yaml names the file with the functions",
            )
        self.found[self.main] = self.file
        self.load_closure(documented=False)
        units = [unit for module in self.modules.values() for unit in module.units]
        if any(unit.reflects for unit in units):
            self.modules.clear()
            self.load_closure(documented=True)
        if any(unit.wide == "project" for unit in units):
            self.load_everything()
        self.index()
        main = self.modules[self.main]
        functions: dict[str, Function] = {}
        again: dict[str, int] = {}
        for index, unit in enumerate(main.units):
            if unit.kind == "def":
                name = unit.node.name  # type: ignore[attr-defined]
                if name in functions:
                    again[name] = functions[name].line
                functions[name] = self.function(main, index, again.get(name, 0))
        return Sources(self.folder, self.file, functions, dict(sorted(self.files.items())))

    def find(self, name: str) -> Path | None:
        """The project file of a module's full name; None where it is not the project's."""
        if name in self.found:
            return self.found[name]
        path: Path | None = None
        parts = name.split(".")
        if parts[0] and parts[0] not in sys.stdlib_module_names:
            for root in self.roots:
                base = root.joinpath(*parts)
                if (base / "__init__.py").is_file():
                    path = base / "__init__.py"
                elif base.with_name(base.name + ".py").is_file():
                    path = base.with_name(base.name + ".py")
                if path is not None:
                    break
        self.found[name] = path
        return path

    def is_namespace(self, name: str) -> bool:
        """Whether a folder without __init__.py stands behind a module's name."""
        parts = name.split(".")
        if not parts[0] or parts[0] in sys.stdlib_module_names:
            return False
        return any(root.joinpath(*parts).is_dir() for root in self.roots)

    def load(self, name: str, *, documented: bool) -> _Module | None:
        path = self.find(name)
        if path is None:
            return None
        if name not in self.trees:
            data = path.read_bytes()
            self.files[str(path)] = digest_bytes(data)
            self.trees[name] = (path, _parse(data, shown(path, self.folder)))
        return _read_module(name, path, self.trees[name][1], documented=documented)

    def load_closure(self, *, documented: bool) -> None:
        """The pipeline's module and every project module that these may import."""
        queue = [self.main]
        while queue:
            name = queue.pop()
            if name in self.modules:
                continue
            module = self.load(name, documented=documented)
            if module is None:
                continue
            self.modules[name] = module
            parts = name.split(".")
            queue += [".".join(parts[:end]) for end in range(1, len(parts))]
            for unit in module.units:
                for targets in unit.imports.values():
                    for target in targets:
                        queue.append(target[0])
                        if len(target) > 1 and target[1] != "*":
                            queue.append(f"{target[0]}.{target[1]}")

    def load_everything(self) -> None:
        """Every Python file of the project: for code that is found by name at run time."""
        for root, folders, names in os.walk(self.folder):
            folders[:] = sorted(
                f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS
            )
            for name in sorted(names):
                path = Path(root, name)
                if name.endswith(".py") and str(path) not in self.files:
                    self.files[str(path)] = digest_bytes(path.read_bytes())

    # -- the index over all modules

    def index(self) -> None:
        self.definers: dict[str, list[_Place]] = {}
        self.always: list[_Place] = []
        self.writers: dict[_Place, list[_Place]] = {}
        for module in self.modules.values():
            for index, unit in enumerate(module.units):
                if unit.kind == "class":
                    for member in unit.members:
                        self.definers.setdefault(member, []).append((module.name, index))
        for module in self.modules.values():
            for index, unit in enumerate(module.units):
                place = (module.name, index)
                if unit.always:
                    self.always.append(place)
                for chain in unit.writes:
                    self.index_write(module, place, chain, stored=True)
                for chain in unit.mutates:
                    self.index_write(module, place, chain, stored=False)
        self.acting: dict[_Place, bool] = {}
        for module in self.modules.values():
            for index, unit in enumerate(module.units):
                if unit.kind in ("def", "class") and self.registers(module, unit):
                    self.always.append((module.name, index))

    def index_write(self, module: _Module, place: _Place, chain: Chain, *, stored: bool) -> None:
        """A function changes a global: it counts where the global does, or everywhere."""
        if chain[0] in module.symbols and chain[0] not in module.imports:
            for index in module.symbols[chain[0]]:
                if module.units[index].kind in ("def", "class"):
                    self.always.append(place)
                else:
                    self.writers.setdefault((module.name, index), []).append(place)
            return
        unit = module.units[place[1]]
        targets = unit.imports.get(chain[0]) or module.imports.get(chain[0]) or []
        ours = False
        for target in targets:
            places, _ = self.follow(target, chain[1:])
            ours = ours or bool(places)
        # `np.add(…)` sounds like a change and is none; `pd.options.mode = …` is one.
        if targets and (stored or ours):
            self.always.append(place)

    def registers(self, module: _Module, unit: _Unit) -> bool:
        """Whether a decorator or a base class does something when `unit` is defined."""
        node: Any = unit.node
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            chain = _chain(call)
            if chain is None:
                return True
            places, outside = self.resolve(module, unit, chain)
            if not places and not outside and chain[0] not in _BUILTINS:
                return True
            if any(self.acts(place) for place in places):
                return True
        for base in getattr(node, "bases", ()):
            chain = _chain(base)
            if chain is None:
                continue
            places, _ = self.resolve(module, unit, chain)
            for place in self.reach(places)[0] if places else ():
                if "__init_subclass__" in self.unit(place).members or any(
                    word.arg == "metaclass"
                    for word in getattr(self.unit(place).node, "keywords", ())
                ):
                    return True
        return False

    def acts(self, place: _Place) -> bool:
        """Whether calling what is at `place` may change something global."""
        if place not in self.acting:
            self.acting[place] = False
            unit = self.unit(place)
            if unit.kind not in ("def", "class"):
                self.acting[place] = True
            else:
                reached, _ = self.reach([place])
                self.acting[place] = any(
                    self.unit(found).writes or self.unit(found).mutates for found in reached
                )
        return self.acting[place]

    def unit(self, place: _Place) -> _Unit:
        return self.modules[place[0]].units[place[1]]

    # -- resolving

    def resolve(self, module: _Module, unit: _Unit, chain: Chain) -> tuple[list[_Place], list[str]]:
        """Where a name leads: units of the project and full names outside of it."""
        places: list[_Place] = []
        outside: list[str] = []
        root = chain[0]
        targets = unit.imports.get(root, []) if unit.kind in ("def", "class") else []
        if not targets or root in module.symbols or root in module.imports:
            places += [(module.name, index) for index in module.symbols.get(root, ())]
            targets = [*targets, *module.imports.get(root, ())]
        for target in targets:
            self.trail.add(f"{module.name}:{root}={':'.join(target)}")
            more, names = self.follow(target, chain[1:])
            places += more
            outside += names
        if not places and not outside:
            for star in module.stars:
                if star in self.modules:
                    places += self.whole(star)
                elif root not in _BUILTINS:
                    outside.append(".".join((star, *chain)))
        return places, outside

    def follow(self, target: Chain, rest: Chain) -> tuple[list[_Place], list[str]]:
        """From an imported module (or a name in it) along attributes."""
        name = target[0]
        rest = (*target[1:], *rest)
        for _ in range(64):  # a name may be handed on from module to module
            while (
                rest
                and f"{name}.{rest[0]}" in self.modules
                and (name not in self.modules or rest[0] not in self.modules[name].symbols)
            ):
                name, rest = f"{name}.{rest[0]}", rest[1:]
            module = self.modules.get(name)
            if module is None:
                if rest and self.is_namespace(name):
                    name, rest = f"{name}.{rest[0]}", rest[1:]
                    continue
                return [], [".".join((name, *rest))]
            if not rest or rest[0] == "*":
                return self.whole(name), []
            places = [(name, index) for index in module.symbols.get(rest[0], ())]
            onward = module.imports.get(rest[0], [])
            for hop in onward:
                self.trail.add(f"{name}:{rest[0]}={':'.join(hop)}")
            if len(onward) == 1 and not places:
                name, rest = onward[0][0], (*onward[0][1:], *rest[1:])
                continue
            outside: list[str] = []
            for hop in onward:
                if hop[0] != name:
                    more, names = self.follow(hop, rest[1:])
                    places += more
                    outside += names
            if places or outside:
                return places, outside
            return self.whole(name), []  # made at run time, perhaps by __getattr__
        return self.whole(target[0]) if target[0] in self.modules else [], []

    def whole(self, name: str) -> list[_Place]:
        return [(name, index) for index in range(len(self.modules[name].units))]

    # -- reaching

    def reach(
        self, start: Iterable[_Place], *, dynamic: bool = False
    ) -> tuple[set[_Place], dict[_Place, list[tuple[Chain, str]]]]:
        """All units reached from `start`; with the outside names each of them uses."""
        seen: set[_Place] = set()
        outside: dict[_Place, list[tuple[Chain, str]]] = {}
        queue = list(start)
        while queue:
            place = queue.pop()
            if place in seen:
                continue
            seen.add(place)
            module, unit = self.modules[place[0]], self.unit(place)
            for chain in unit.uses:
                places, names = self.resolve(module, unit, chain)
                queue += places
                outside.setdefault(place, []).extend((chain, name) for name in names)
            queue += self.writers.get(place, ())
            if dynamic:
                for attribute in unit.attributes:
                    queue += self.definers.get(attribute, ())
                if unit.wide:
                    for name in self.modules:
                        queue += self.whole(name)
        return seen, outside

    # -- a function

    def function(self, module: _Module, index: int, again: int) -> Function:
        unit = module.units[index]
        node: Any = unit.node
        place = (module.name, index)
        self.trail = set()
        reached, outside = self.reach([place, *self.always], dynamic=True)
        trail = sorted(self.trail)
        # The step's own defaults are its parameters: they are given by name at each call, so a
        # changed default is a changed parameter. Who else calls it depends on the whole of it.
        called = self.calls_itself(place, reached)
        own = unit.digest if called else self.without_defaults(unit)
        parts: list[Any] = [FORMAT, own]
        entries: list[tuple[str, int, str, str]] = []
        futures: set[tuple[str, ...]] = set()
        for found in reached:
            other = self.unit(found)
            home = self.modules[found[0]]
            if home.futures:
                futures.add((home.name, *home.futures))
            if found == place:
                continue
            ordered = other.kind not in ("def", "class") or any(
                len(home.symbols[name]) > 1 for name in other.binds
            )
            entries.append((found[0], found[1] if ordered else -1,
                            ",".join(sorted(other.binds)), other.digest))  # fmt: skip
        entries.sort()
        parts.append([[name, bound, text] for name, _, bound, text in entries])
        parts += [trail, sorted(futures)]
        if any(self.unit(found).wide == "project" for found in reached):
            parts.append({shown(Path(p), self.folder): d for p, d in self.files.items()})
        if any(self.unit(found).reflects for found in reached):
            # Documentation or source text may be read: the text itself counts.
            parts.append({shown(Path(p), self.folder): d for p, d in self.files.items()})
        parameters = tuple(self.parameters(module, node))
        parts.append([(p.name, p.frame) for p in parameters])
        results = self.named_results(module, unit, node.returns)
        parts.append(results)
        names = {name for found in outside.values() for _, name in found}
        impurities, reads = self.findings(node.name, reached, outside)
        return Function(
            name=node.name,
            line=node.lineno,
            parameters=parameters,
            results=results or (node.name,),
            named=results is not None,
            digest=digest(parts),
            packages=self.packages.versions(names),
            impurities=impurities,
            reads=reads,
            refused=_refused(node),
            again=again,
        )

    def calls_itself(self, place: _Place, reached: set[_Place]) -> bool:
        """Whether the step is used as a plain function too, by itself or by what it reaches."""
        name = self.unit(place).node.name  # type: ignore[attr-defined]
        return any(
            any(name in chain for chain in self.unit(found).uses) or self.unit(found).wide
            for found in reached
        )

    def without_defaults(self, unit: _Unit) -> str:
        """The digest of a function whose literal defaults are left out."""
        node: Any = unit.node
        arguments: ast.arguments = node.args
        kept = (arguments.defaults, arguments.kw_defaults)
        blank = ast.Constant(value=...)
        try:
            arguments.defaults = [blank if _is_literal(d) else d for d in arguments.defaults]
            arguments.kw_defaults = [
                blank if d is not None and _is_literal(d) else d for d in arguments.kw_defaults
            ]
            copy = _Unit(unit.line, unit.kind, node)
            _Reader(copy, (), documented=unit.reflects).read(node)
        finally:
            arguments.defaults, arguments.kw_defaults = kept
        return copy.digest

    def parameters(self, module: _Module, node: ast.FunctionDef) -> Iterator[Parameter]:
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        padding = [None] * (len(positional) - len(arguments.defaults))
        defaults: list[ast.expr | None] = [*padding, *arguments.defaults, *arguments.kw_defaults]
        for argument, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
            value: Any = None
            literal = True
            if default is not None:
                try:
                    value = ast.literal_eval(default)
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    literal = False
            annotation = _annotation(argument.annotation)
            yield Parameter(
                name=argument.arg,
                line=argument.lineno,
                annotation=annotation,
                frame=self.frame(module, annotation),
                has_default=default is not None,
                default=value,
                literal=literal,
            )

    def frame(self, module: _Module, annotation: str) -> str:
        """`polars` where the annotation's root is that package, else `pandas`."""
        for word in annotation.replace("|", " ").replace("[", " ").replace("]", " ").split():
            root, _, rest = word.partition(".")
            targets = module.imports.get(root, [(root,)])
            if any(target[0].split(".")[0] == "polars" for target in targets):
                return "polars"
            if rest and root == "pl" and root not in module.imports:
                return "polars"
        return "pandas"

    def named_results(
        self, module: _Module, unit: _Unit, returns: ast.expr | None
    ) -> tuple[str, ...] | None:
        """The fields of the NamedTuple that a function is annotated to return, or None."""
        if isinstance(returns, ast.Constant) and isinstance(returns.value, str):
            try:
                returns = ast.parse(returns.value, mode="eval").body
            except SyntaxError:
                return None
        chain = _chain(returns) if returns is not None else None
        if chain is None:
            return None
        places, _ = self.resolve(module, unit, chain)
        for place in places:
            fields = self.fields_of(place, 0)
            if fields:
                return fields
        return None

    def fields_of(self, place: _Place, depth: int) -> tuple[str, ...] | None:
        unit, module = self.unit(place), self.modules[place[0]]
        if unit.kind == "assign" and isinstance(getattr(unit.node, "value", None), ast.Call):
            return self.functional_fields(module, unit)
        if unit.kind != "class":
            return None
        node: Any = unit.node
        for base in node.bases:
            chain = _chain(base)
            if chain is None:
                continue
            places, outside = self.resolve(module, unit, chain)
            if "typing.NamedTuple" in outside or "typing_extensions.NamedTuple" in outside:
                return tuple(
                    statement.target.id
                    for statement in node.body
                    if isinstance(statement, ast.AnnAssign)
                    and isinstance(statement.target, ast.Name)
                )
            if depth < 8:
                for parent in places:
                    fields = self.fields_of(parent, depth + 1)
                    if fields:
                        return fields
        return None

    def functional_fields(self, module: _Module, unit: _Unit) -> tuple[str, ...] | None:
        """`NamedTuple("Split", [("train", …), …])` or `namedtuple("Split", "train holdout")`."""
        call: Any = unit.node.value  # type: ignore[attr-defined]
        chain = _chain(call.func)
        if chain is None or len(call.args) < 2:
            return None
        _, outside = self.resolve(module, unit, chain)
        if not {"typing.NamedTuple", "collections.namedtuple"} & set(outside):
            return None
        listed = call.args[1]
        if isinstance(listed, ast.Constant) and isinstance(listed.value, str):
            return tuple(listed.value.replace(",", " ").split())
        names = []
        for item in getattr(listed, "elts", ()):
            first = item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item
            if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
                return None
            names.append(first.value)
        return tuple(names) or None

    # -- what differs from run to run

    def findings(
        self,
        function: str,
        reached: set[_Place],
        outside: dict[_Place, list[tuple[Chain, str]]],
    ) -> tuple[tuple[Impurity, ...], tuple[str, ...]]:
        found: dict[tuple[str, int, str], Impurity] = {}
        reads: set[str] = set()
        calls: list[tuple[_Place, _Call, str]] = []
        for place in reached:
            known: dict[Chain, list[str]] = {}
            for chain, name in outside.get(place, ()):
                known.setdefault(chain, []).append(name)
            for call in self.unit(place).calls:
                names = known.get(call.chain, [".".join(call.chain)])
                calls += [(place, call, name) for name in names]
        seeded = {
            "numpy.random" if name.startswith("numpy") else "random"
            for _, call, name in calls
            if name in ("numpy.random.seed", "random.seed") and call.arguments
        }
        for place in reached:
            file = shown(self.modules[place[0]].path, self.folder)
            called = {call.chain for call in self.unit(place).calls}
            for chain, name in outside.get(place, ()):
                if chain not in called and f"{name}.".startswith("os.environ."):
                    line = self.unit(place).line
                    what = f"reads the environment: {'.'.join(chain)}"
                    found[file, line, what] = Impurity(function, file, line, what)
        for place, call, name in calls:
            what, path = _impure(call, name, seeded)
            if path is not None:
                reads.add(path)
            if what:
                file = shown(self.modules[place[0]].path, self.folder)
                found[file, call.line, what] = Impurity(function, file, call.line, what)
        return tuple(found[key] for key in sorted(found)), tuple(sorted(reads))


_BUILTINS = frozenset(dir(__import__("builtins")))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _annotation(node: ast.expr | None) -> str:
    if node is None:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node)


def _refused(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Why a function cannot be a step, in words; nothing if it can."""
    if isinstance(node, ast.AsyncFunctionDef):
        return "it is an async function: a step is a plain def"
    stack: list[ast.AST] = list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Yield | ast.YieldFrom):
            return "it is a generator (yield): a step returns its result whole"
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            stack.extend(ast.iter_child_nodes(item))
    arguments = node.args
    if arguments.vararg is not None:
        return f"it takes *{arguments.vararg.arg}: every input needs a name of its own"
    if arguments.kwarg is not None:
        return f"it takes **{arguments.kwarg.arg}: every input needs a name of its own"
    if arguments.posonlyargs:
        return "it has positional-only parameters (/): inputs are handed over by name"
    return ""


_CLOCK = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime",
          "time.strftime", "datetime.datetime.now", "datetime.datetime.utcnow",
          "datetime.datetime.today", "datetime.date.today", "pandas.Timestamp.now",
          "pandas.Timestamp.today", "pandas.Timestamp.utcnow"}  # fmt: skip
_ENVIRONMENT = {"os.getenv", "os.environ.get", "os.getcwd", "os.getlogin", "os.cpu_count",
                "platform.node", "socket.gethostname", "getpass.getuser", "os.getpid"}  # fmt: skip
_RANDOM = {"uuid.uuid1", "uuid.uuid4", "os.urandom", "random.SystemRandom"}
_NETWORK = ("requests.", "httpx.", "httpx2.", "urllib.request.", "urllib3.", "aiohttp.", "socket.",
            "http.client.", "ftplib.", "smtplib.", "boto3.", "paramiko.", "websockets.",
            "psycopg.", "sqlalchemy.create_engine", "sqlite3.connect", "duckdb.connect",
            "duckdb.sql", "duckdb.query", "subprocess.", "os.system", "os.popen")  # fmt: skip
_SEED_WORDS = {"random_state", "seed", "**"}
_SEEDED_BY_STATE = {
    "train_test_split", "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier",
    "ExtraTreesRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "MLPClassifier",
    "MLPRegressor", "SGDClassifier", "SGDRegressor", "KMeans", "MiniBatchKMeans", "IsolationForest",
    "ShuffleSplit", "StratifiedShuffleSplit", "RandomizedSearchCV", "BaggingClassifier",
    "BaggingRegressor", "DecisionTreeClassifier", "DecisionTreeRegressor", "shuffle", "resample",
}  # fmt: skip
_READERS = ("pandas.read_", "polars.read_", "polars.scan_", "pyarrow.parquet.read_",
            "pyarrow.csv.read_", "numpy.load", "numpy.fromfile", "numpy.genfromtxt", "joblib.load",
            "pyarrow.dataset.dataset")  # fmt: skip


def _impure(call: _Call, name: str, seeded: set[str]) -> tuple[str, str | None]:
    """What a call reads beside its inputs, in words, and the constant path that it opens."""
    written = ".".join(call.chain).replace("?.", "….") + "()"
    if name in _CLOCK:
        return f"reads the clock: {written}", None
    if name in _ENVIRONMENT:
        return f"reads the environment: {written}", None
    if name in _RANDOM or name.startswith("secrets."):
        return f"draws at random: {written}", None
    if name.startswith(_READERS):  # what Python itself opens is noticed when it happens
        if call.first is None:
            return f"reads a file that is no input: {written}", None
        if "://" in call.first:
            return f"reads from the network: {call.first}", None
        return "", call.first
    if name.startswith(_NETWORK):
        return f"reaches outside: {written}", None
    if name in ("random.Random", "numpy.random.default_rng", "numpy.random.RandomState",
                "numpy.random.SeedSequence", "numpy.random.PCG64"):  # fmt: skip
        if not call.arguments and not call.keywords:
            return f"draws at random without a seed: {written}", None
        return "", None
    for module in ("numpy.random", "random"):
        if name.startswith(module + ".") and name.count(".") == module.count(".") + 1:
            if module not in seeded and not name.endswith(".seed"):
                return f"draws at random without a seed: {written}", None
            return "", None
    last = name.rpartition(".")[2]
    if name.startswith("sklearn.") and last in _SEEDED_BY_STATE and not _SEED_WORDS & call.keywords:
        return f"draws at random without random_state: {written}", None
    if last == "sample" and not _SEED_WORDS & call.keywords and call.chain[0] == "?":
        return f"draws at random without random_state or seed: {written}", None
    return "", None
