"""Run the steps that must run, in this process, and commit each as soon as it is done.

- The user's modules are compiled from exactly the bytes that were fingerprinted: a file that was
  edited in between stops the run (and no stale bytecode is ever used).
- Every input is read from the store, also when it was made a moment ago: a step sees the same
  thing on every run, and what it changes in place nobody else sees.
- Files that a step opens itself are noticed by an audit hook and become part of what it depends on.
- Before a step starts, a record `running` says so: should the process die, by a signal or a power
  cut, the next one knows what it was doing.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import treadle
from treadle.base import clock, garbage
from treadle.base.digest import digest_bytes, digest_file
from treadle.base.errors import PipelineError, StateCorrupt, StepFailed, TreadleError
from treadle.base.log import Report
from treadle.base.records import Step
from treadle.clients.journal import Changes, Journal
from treadle.clients.objects import Objects
from treadle.code import cache, store
from treadle.code.cache import PlannedStep
from treadle.code.fingerprint import Sources, shown
from treadle.code.pipeline import Graph, Node

_OURS = os.path.dirname(os.path.abspath(treadle.__file__)) + os.sep


def run(
    planned: Sequence[PlannedStep],
    graph: Graph,
    load_dataset: Callable[[str, str], object],
    objects: Objects,
    journal: Journal,
    commit: Callable[[Changes], None],
    report: Report,
    trust_pickle: bool = False,
    *,
    run_id: str = "",
) -> dict[str, Step]:
    """Every step of the graph, by name: hits as they were stored, the others run now.

    `load_dataset(name, kind)` gives a data set as a `pandas` or `polars` frame (or paths), fresh at
    each call. The working folder is the project's while steps run; what they print goes to stderr.
    Raises StepFailed with the user's own traceback, PipelineError for sources that changed.
    """
    return _Run(
        graph=graph,
        load_dataset=load_dataset,
        objects=objects,
        journal=journal,
        commit=commit,
        report=report,
        trust_pickle=trust_pickle,
        run_id=run_id or clock.ulid(),
    ).all(planned)


class _Run:
    def __init__(
        self,
        *,
        graph: Graph,
        load_dataset: Callable[[str, str], object],
        objects: Objects,
        journal: Journal,
        commit: Callable[[Changes], None],
        report: Report,
        trust_pickle: bool,
        run_id: str,
    ) -> None:
        self.graph = graph
        self.load_dataset = load_dataset
        self.objects = objects
        self.journal = journal
        self.commit = commit
        self.report = report
        self.trust_pickle = trust_pickle
        self.run_id = run_id
        self.done: dict[str, Step] = {}
        self.plans: dict[str, PlannedStep] = {}
        self.module: types.ModuleType | None = None
        self.stack = contextlib.ExitStack()
        self.began = False

    def all(self, planned: Sequence[PlannedStep]) -> dict[str, Step]:
        self.plans = {step.name: step for step in planned}
        try:
            with self.stack:
                for plan in planned:
                    self.step(plan)
        finally:
            if self.began:  # handled: only a death leaves the record
                self.commit(Changes().delete("running", self.run_id))
        return self.done

    def step(self, plan: PlannedStep) -> None:
        """A hit as it is; else looked up again, now that its inputs are known; else run."""
        if plan.hit is None:
            plan = cache.resolve(plan, self.graph, self.done, self.journal, self.objects)
        self.plans[plan.name] = plan
        if plan.hit is not None:
            self.done[plan.name] = plan.hit
            self.remember(plan.hit)
            self.report(f"{plan.name}: kept", step=plan.name, status="kept", key=plan.key)
            return
        self.done[plan.name] = self.execute(plan)

    def remember(self, step: Step) -> None:
        """The step that the next plan explains its changes against."""
        last = self.journal.get("step_last", step.name)
        if last is None or last.get("key") != step.key:
            self.commit(Changes().put("step_last", step.name, step))

    # -- one step

    def execute(self, plan: PlannedStep) -> Step:
        node = self.graph.nodes[plan.name]
        self.begin(node)
        function = self.function(node)  # before the inputs: a pickle among them may need it
        arguments = {name: self.input(giver, name) for name, giver in node.inputs.items()}
        for name, kind in node.datasets.items():
            arguments[name] = self.load_dataset(name, kind)
        arguments |= plan.parameters
        if not self.began:  # a damaged input was made again in between
            self.begin(node)
        self.report(f"{node.name}: runs", step=node.name, status="runs", why=plan.why)
        started = clock.elapsed()
        with _noticing(self.graph.sources) as opened:
            value = self.call(node, function, arguments)
        seconds = clock.elapsed() - started
        del arguments
        results = tuple(self.results(node, value))
        del value
        step = self.finished(plan, node, opened, results, seconds)
        self.report(
            f"{node.name}: done in {seconds:.2f} s", step=node.name, status="done", key=step.key,
            seconds=seconds,
        )  # fmt: skip
        return step

    def begin(self, node: Node) -> None:
        record = {"step": node.name, "started": clock.text(clock.now()), "pid": os.getpid()}
        self.commit(Changes().put("running", self.run_id, record))
        self.began = True

    def finished(
        self,
        plan: PlannedStep,
        node: Node,
        opened: Mapping[str, str],
        results: tuple[Any, ...],
        seconds: float,
    ) -> Step:
        sources = self.graph.sources
        base = {
            key: value
            for key, value in plan.depends.items()
            if not key.startswith("file ") or key[5:] in node.function.reads
        }
        changes = Changes()
        depends = dict(base)
        if not opened:
            changes.delete("step_files", cache.step_key(plan.name, base))
        else:
            names = {shown(Path(path), sources.folder): digest for path, digest in opened.items()}
            depends |= {f"file {name}": digest for name, digest in names.items()}
            changes.put("step_files", cache.step_key(plan.name, base), sorted(names))
            self.report(
                f"{node.name} opened {', '.join(sorted(names))}: it runs again when that changes",
                step=node.name, status="files", files=sorted(names),
            )  # fmt: skip
        step = Step(
            name=plan.name,
            key=cache.step_key(plan.name, depends),
            depends=depends,
            results=results,
            seconds=seconds,
            cache=plan.cache,
        )
        changes.put("step", step.key, step).put("step_last", step.name, step)
        changes.put("step_before", step.key, {"depends": plan.before, "why": plan.why})
        changes.delete("running", self.run_id)
        self.commit(changes)
        self.began = False
        return step

    def input(self, giver: str, name: str) -> Any:
        """A result of another step, from the store; made again where it is damaged."""
        step = self.done[giver]
        result = cache.result_of(step, name)
        try:
            return store.load(result, self.objects, trust_pickle=self.trust_pickle)
        except StateCorrupt as error:
            self.report(
                f"result {name} of {giver}() is damaged and is made again: {error.message}",
                step=giver, status="damaged",
            )  # fmt: skip
        self.objects.delete(result.content)
        again = self.execute(self.plans[giver])
        self.done[giver] = again
        made = cache.result_of(again, name)
        if cache.input_digest(made, again) != cache.input_digest(result, step):
            self.report(
                f"{giver}() gave another {name} than the damaged one: what follows runs again",
                step=giver, status="differs",
            )  # fmt: skip
        return store.load(made, self.objects, trust_pickle=self.trust_pickle)

    # -- the user's code

    def function(self, node: Node) -> Callable[..., Any]:
        if self.module is None:
            self.stack.enter_context(user_code(self.graph.sources))
            self.module = self.guarded(
                f"{self.graph.sources.where} cannot be imported", self.import_module
            )
        function = getattr(self.module, node.name, None)
        if not callable(function):
            raise PipelineError(
                f"{self.graph.sources.where} has no function {node.name} once it is imported",
                hint="something in the file removes or replaces it",
            )
        return function  # type: ignore[no-any-return]

    def import_module(self) -> types.ModuleType:
        return importlib.import_module(self.graph.sources.file.stem)

    def call(self, node: Node, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        garbage.look_as_usual()
        try:
            return self.guarded(
                f"step {node.name} failed", lambda: function(**arguments), node.name
            )
        finally:
            garbage.look_seldom()

    def guarded(self, what: str, action: Callable[[], Any], step: str = "") -> Any:
        """Call the user's code; what it raises becomes StepFailed with its own traceback."""
        seen: set[str] = set()
        try:
            with _stdout_to_stderr(), warnings.catch_warnings(record=True) as caught:
                try:
                    return action()
                finally:
                    for warning in caught:
                        text = f"{warning.category.__name__}: {warning.message}"
                        if text not in seen:
                            seen.add(text)
                            where = f"{shown(Path(warning.filename), self.graph.sources.folder)}"
                            self.report(
                                f"{step or 'import'}: {text} ({where}:{warning.lineno})",
                                step=step, status="warning",
                            )  # fmt: skip
        except KeyboardInterrupt:
            raise
        except TreadleError:
            raise
        except SystemExit as error:
            raise StepFailed(
                f"{what}: it called sys.exit({error.code!r})",
                user_traceback=user_traceback(error),
                hint="a step returns its result or raises an error; it does not end the process",
            ) from error
        except MemoryError as error:
            raise StepFailed(
                f"{what}: out of memory",
                user_traceback=user_traceback(error),
                hint="work on fewer rows or columns at a time, or on a bigger machine",
            ) from error
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            raise StepFailed(f"{what}: {text}", user_traceback=user_traceback(error)) from error

    def results(self, node: Node, value: Any) -> Iterator[Any]:
        """Store what a function returned; only what somebody needs has to be storable."""
        function = node.function
        needed = self.graph.needed.get(node.name, frozenset(function.results))
        if function.named:
            fields = getattr(value, "_fields", None)
            if fields is None or not set(function.results) <= set(fields):
                raise StepFailed(
                    f"step {node.name} returned {_named(value)}, where its annotation promises "
                    f"{', '.join(function.results)}",
                    hint="return the NamedTuple itself",
                )
            values = {name: getattr(value, name) for name in function.results}
        else:
            values = {node.name: value}
        for name, item in values.items():
            if item is None:
                if name in needed:
                    raise StepFailed(
                        f"step {node.name} returned None where the result {name} is needed",
                        hint=f"is a `return` missing in {node.name}() "
                        f"({self.graph.sources.where}:{function.line})?",
                    )
                continue
            try:
                yield store.save(name, item, self.objects, self.trust_pickle)
            except store.NotStorable as error:
                if name in needed:
                    raise
                self.report(f"{error.message}; nobody needs it, so it is not kept",
                            step=node.name, status="skipped")  # fmt: skip


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__qualname__}"


def user_traceback(error: BaseException) -> str:
    """The traceback as the user's own code has it: without Treadle's and the import system's frames."""
    shown_error = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()

    def trim(item: traceback.TracebackException | None) -> None:
        if item is None or id(item) in seen:
            return
        seen.add(id(item))
        kept = [
            frame
            for frame in item.stack
            if not frame.filename.startswith((_OURS, "<frozen importlib"))
        ]
        item.stack = traceback.StackSummary.from_list(kept)
        trim(item.__cause__)
        trim(item.__context__)
        for part in getattr(item, "exceptions", None) or ():
            trim(part)

    trim(shown_error)
    return "".join(shown_error.format())


# ---- importing exactly what was fingerprinted ----------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles from the bytes that were fingerprinted; reads and writes no bytecode."""

    sources: Sources
    late: dict[str, str]

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        known = self.sources.files.get(os.path.abspath(path))
        seen = digest_bytes(data)
        if known is None:
            self.late[os.path.abspath(path)] = seen
        elif known != seen:
            raise PipelineError(
                f"{shown(Path(path), self.sources.folder)} was edited while this turn was running",
                hint="run it again",
            )
        return compile(data, path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the project's modules, before anything else but the standard library."""

    def __init__(self, sources: Sources) -> None:
        self.roots = [str(root) for root in sources.roots]
        self.late: dict[str, str] = {}
        self.loader = type("Loader", (_Loader,), {"sources": sources, "late": self.late})
        self.found: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that lies in the project; None for all others."""
        del target
        if name.partition(".")[0] in sys.stdlib_module_names and name not in self.found:
            return None
        for entry in self.roots if path is None else path:
            if not any(entry == root or entry.startswith(root + os.sep) for root in self.roots):
                continue
            if f"{os.sep}site-packages" in entry:
                continue
            finder = importlib.machinery.FileFinder(entry, (self.loader, [".py"]))
            spec = finder.find_spec(name)
            if spec is not None and spec.loader is not None:
                self.found.add(name)
                return spec
        return None


_finder: _Finder | None = None


@contextlib.contextmanager
def user_code(sources: Sources) -> Iterator[None]:
    """The project importable, in its folder; everything put back afterwards."""
    global _finder
    finder = _Finder(sources)
    stem = sources.file.stem
    finder.found.add(stem)
    kept_path, kept_folder, kept_modules = list(sys.path), os.getcwd(), dict(sys.modules)
    wrote = sys.dont_write_bytecode
    inside = tuple(f"{root}{os.sep}" for root in finder.roots)
    for name, module in kept_modules.items():
        # Left by an earlier turn of this process, or another module of the pipeline's name.
        file = getattr(module, "__file__", None) or ""
        ours = (
            file.startswith(inside) and "site-packages" not in file and not file.startswith(_OURS)
        )
        if name != "__main__" and (name == stem or ours):
            del sys.modules[name]
    sys.meta_path.insert(0, finder)
    sys.path[:0] = finder.roots
    sys.dont_write_bytecode = True
    os.chdir(sources.folder)
    previous, _finder = _finder, finder
    try:
        yield
    finally:
        _finder = previous
        os.chdir(kept_folder)
        sys.dont_write_bytecode = wrote
        sys.path[:] = kept_path
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)
        for name in list(sys.modules):
            top = name.partition(".")[0]
            if name in finder.found or top == stem:
                if name in kept_modules and name not in finder.found:
                    sys.modules[name] = kept_modules[name]
                else:
                    del sys.modules[name]
        if stem in kept_modules and stem not in sys.modules:
            sys.modules[stem] = kept_modules[stem]


# ---- files that a step opens ---------------------------------------------------------------------

_recording: dict[str, bool] | None = None
"""Path → whether it was first opened for reading."""
_hooked = False
_CODE = (".py", ".pyc", ".so", ".pyd", ".pyi", ".dylib", ".pth")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or _recording is None:
        return
    path, mode, flags = arguments
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return
    if isinstance(mode, str):
        reads = "r" in mode
    else:
        reads = not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_CREAT))
    _recording.setdefault(os.path.abspath(path), reads)


def _installed_prefixes() -> tuple[str, ...]:
    roots = {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)}
    roots |= {os.path.realpath(root) for root in roots}
    return tuple(
        root.rstrip(os.sep) + os.sep
        for root in [*sorted(roots), "/proc", "/sys", "/dev", "/etc", "/usr/share", "/usr/lib",
                     "/lib"]
        if root.rstrip(os.sep)
    )  # fmt: skip


@contextlib.contextmanager
def _noticing(sources: Sources) -> Iterator[dict[str, str]]:
    """Collects the files that are opened for reading, with digests; filled when the block ends.

    Left out are code and what is installed (versions stand for it), the state, and files that the
    step wrote itself (they were not there, or not so, before it began).
    """
    global _recording, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    result: dict[str, str] = {}
    began = time.time_ns()  # compared with the file system's times, not with the replayed clock
    outer, _recording = _recording, {}
    try:
        yield result
    finally:
        seen, _recording = _recording, outer
    installed = _installed_prefixes()
    state = os.path.join(str(sources.folder), ".treadle") + os.sep
    inside = str(sources.folder) + os.sep
    for path, reads in seen.items():
        if not reads or path.endswith(_CODE) or path.startswith(state) or "__pycache__" in path:
            continue
        if path.startswith(installed) and not path.startswith(inside):
            continue
        try:
            status = os.stat(path)
            if status.st_mtime_ns >= began or not os.path.isfile(path):
                continue
            result[path] = digest_file(path)
        except OSError:
            continue
    if _finder is not None:
        result |= _finder.late


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What the user's code (and C libraries under it) prints goes to stderr: stdout is results."""
    sys.stdout.flush()
    saved: int | None = None
    try:
        output, errors = sys.__stdout__, sys.__stderr__
        if output is not None and errors is not None:
            saved = os.dup(output.fileno())
            os.dup2(errors.fileno(), output.fileno())
    except (OSError, ValueError, AttributeError):
        saved = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        if saved is not None and sys.__stdout__ is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.__stdout__.flush()
                os.dup2(saved, sys.__stdout__.fileno())
            os.close(saved)
