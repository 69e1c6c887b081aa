"""Building images: base, wheels, server, code and model become layers; they go where they are wanted.

What an image is made of is a plan; the plan's digest decides whether anything is to be done. Nothing
here needs a daemon, and nothing of it differs from turn to turn: release and run travel beside the
image, in an attached artifact and in the environment of the process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base.digest import digest
from treadle.base.errors import Refused, UsageError
from treadle.base.image import Blob, BuiltImage, Platform, Purpose, Wheel
from treadle.base.log import Report, silent
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Image, Release
from treadle.base.spec import BuildSection, DockerTarget, KubernetesTarget
from treadle.build import base as bases
from treadle.build import dockerfile, layer, lock, needs, runtime, wheel
from treadle.build import image as images
from treadle.build.image import ImagePlan, Part
from treadle.clients import wheels
from treadle.clients.cache import Cache
from treadle.clients.files import write_file
from treadle.clients.journal import Changes
from treadle.clients.oci import source
from treadle.loop import subject as subjects
from treadle.loop.built import Ready
from treadle.loop.subject import Subject

if TYPE_CHECKING:
    from treadle.loop.node_store import NodeStore
    from treadle.loop.project import Project


@dataclass(frozen=True)
class Wishes:
    """What is asked of a build."""

    purpose: Purpose = "serve"
    output: str | None = None
    platforms: tuple[str, ...] = ()
    base: str | None = None
    update: bool = False
    force: bool = False
    dry_run: bool = False
    context: Path | None = None
    """Where to write a Dockerfile instead."""


@dataclass(frozen=True)
class Change:
    """One layer beside that of the image before."""

    platform: str
    layer: str
    action: str
    reason: str


@dataclass(frozen=True)
class Built:
    """What a build came to."""

    reference: str
    """By digest, where it is now; of a dry run the plan's digest."""
    digest: str
    purpose: str
    platforms: tuple[str, ...]
    size_bytes: int = 0
    sent_bytes: int = 0
    blobs: dict[str, str] = field(default_factory=dict)
    """Title → had, mounted, sent."""
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """One platform's plan, and how its layers are made when they are wanted."""

    plan: ImagePlan
    base: images.Base
    layers: tuple[Callable[[], Blob], ...]
    wheels: tuple[Wheel, ...]
    interpreter: str
    """Path of the Python in the image."""

    def assemble(self) -> BuiltImage:
        """Make what is not made yet, several layers at once, and put them together."""
        return images.assemble(self.plan, self.base, layer.together(self.layers))


# ---- the journeys --------------------------------------------------------------------------------


def build(
    project: Project, environment: str, wishes: Wishes, *, number: int | None = None
) -> Built:
    """The image of an environment's champion (or of a release, or for training, or the hub)."""
    from treadle.loop.service import chosen_release

    place = project.spec.place(environment)
    release: Release | None = None
    if wishes.purpose in ("serve", "batch"):
        release = chosen_release(project, place, number, None)
        about = subjects.of_release(project, release, wishes.purpose)
    elif wishes.purpose == "train":
        about = subjects.of_training(project)
    else:
        about = subjects.of_hub(project.spec.project)
    output = wishes.output or getattr(project.spec.deploy[place], "image", None)
    if output is None:
        output = f"oci:{project.require_state().folder / 'images'}"
    maker = Maker(about, project.spec.build, wishes, folder=project.folder, report=project.report)
    built, image = maker.build(
        output,
        before=_last(project, wishes.purpose, environment if wishes.purpose == "batch" else place),
    )
    if image is not None and not wishes.dry_run:
        # What serves and what scores are different images of one release.
        scores = wishes.purpose == "batch"
        told = None if scores and environment == place else release
        _record(project, environment if scores else place, image, told)
    return built


def for_engine(project: Project, place: str, release: Release, target: DockerTarget) -> Ready:
    """The release's image on the target's engine: pushed and pulled where `image:` names a
    registry, else loaded; what is there already is not sent."""
    from treadle.clients.docker import DockerCommand
    from treadle.loop import outlet

    engine = DockerCommand(target.context)
    about = subjects.of_release(project, release)
    platform = engine.platform()
    wishes = Wishes(platforms=(platform,), force=True)
    maker = Maker(about, project.spec.build, wishes, folder=project.folder, report=project.report)
    project.report(f"building the image of release {release.number}", phase="build")
    before = _last(project, "serve", place)
    if target.image is not None:
        built, image = maker.build(target.image, before=before)
        engine.pull(built.reference)
        ready = Ready(built.reference, built.digest)
    else:
        planned = maker.plan(Platform.parse(platform))
        maker.keep_lock()
        made = planned.assemble()
        name = f"treadle/{project.spec.project}-serve:{made.digest[7:19]}"
        sent = outlet.into_engine(engine, made, name, project.report)
        image = Image(
            made.digest, "serve", {planned.plan.platform: to_plain(planned.plan)}, about.content,
            _size([made]),
        )  # fmt: skip
        ready = Ready(sent.reference, made.digest)
    if image is not None:
        _record(project, place, image, release)
    return ready


def for_cluster(
    project: Project, place: str, release: Release, target: KubernetesTarget,
    purpose: Purpose = "serve",
) -> Ready:  # fmt: skip
    """The release's image where the cluster can pull it: in the registry that `image:` names, or
    loaded into the nodes of a local cluster, by its context. `place` keeps its record."""
    about = subjects.of_release(project, release, purpose)
    wishes = Wishes(purpose, platforms=project.spec.build.platforms, force=True)
    maker = Maker(about, project.spec.build, wishes, folder=project.folder, report=project.report)
    project.report(f"building the image of release {release.number}", phase="build")
    output = target.image or str(nodes_of(target))
    built, image = maker.build(output, before=_last(project, purpose, place))
    assert image is not None
    _record(project, place, image, release)
    return Ready(built.reference, built.digest)


def nodes_of(target: KubernetesTarget) -> NodeStore:
    """The nodes that images are loaded into. UsageError: the cluster pulls, and nobody says whence."""
    from treadle.clients.kube import ApiCluster
    from treadle.loop.node_store import of_context

    return of_context(target.context, lambda: ApiCluster(target.context).build())


def build_folder(folder: Path, wishes: Wishes, *, report: Report = silent) -> Built:
    """The image of any MLflow model directory."""
    if wishes.purpose != "serve":
        raise UsageError("a model directory is for serving: leave out --for")
    about = subjects.of_folder(folder)
    maker = Maker(about, BuildSection(), wishes, folder=None, report=report)
    output = wishes.output or f"oci:{Cache().folder / 'images'}"
    return maker.build(output, before=None)[0]


def _last(project: Project, purpose: str, place: str) -> dict[str, ImagePlan]:
    """Platform → plan of the image that was built before."""
    known = project.journal.get("image_last", f"{place} {purpose}")
    found = None if known is None else project.journal.get("image", known)
    if found is None:
        return {}
    return {name: from_plain(ImagePlan, plan) for name, plan in found["plans"].items()}


def _record(project: Project, place: str, image: Image, release: Release | None) -> None:
    changes = Changes()
    if project.journal.get("image", image.reference) != to_plain(image):
        changes.put("image", image.reference, image)
    key = f"{place} {image.purpose}"
    if project.journal.get("image_last", key) != image.reference:
        changes.put("image_last", key, image.reference)
    if release is not None:
        own = f"{place}/{release.number:06d}"
        if project.journal.get("image_of", own) != image.reference:
            changes.put("image_of", own, image.reference)
    if changes.puts:
        project.commit(changes)


# ---- one build -----------------------------------------------------------------------------------


class Maker:
    """What one build needs to know: its subject, its lock, its caches."""

    def __init__(
        self,
        about: Subject,
        section: BuildSection,
        wishes: Wishes,
        *,
        folder: Path | None,
        report: Report = silent,
    ) -> None:
        self.about, self.section, self.wishes, self.report = about, section, wishes, report
        self.folder = folder
        self.cache = Cache()
        self.python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        told = wishes.platforms or section.platforms
        self.platforms = [Platform.parse(one) for one in told] or [Platform.here()]
        self.notes: list[str] = []
        self._before = lock.read(folder) if folder is not None else self._unlocked()
        self._lock = self._before
        if wishes.update:
            self._lock = self._before.renewed(about.purpose, self.platforms, self._shown_base())
        if self._lock.compressor is None:
            self._lock = replace(self._lock, compressor=str(layer.best_compressor()))
        self.compressor = layer.compressor_of(self._lock.compressor or "")

    def build(
        self, output: str, *, before: dict[str, ImagePlan] | None
    ) -> tuple[Built, Image | None]:
        """Plan, make, send."""
        planned = [self.plan(platform) for platform in self.platforms]
        changes = tuple(
            Change(one.plan.platform, *_fields(change))
            for one in planned
            for change in images.explain((before or {}).get(one.plan.platform), one.plan)
        )
        names = tuple(one.plan.platform for one in planned)
        self._tell_notes()
        if self.wishes.dry_run:
            key = digest([one.plan.digest for one in planned])
            return Built(
                key, key, self.about.purpose, names, changes=changes, notes=tuple(self.notes)
            ), None
        self.keep_lock()
        if self.wishes.context is not None:
            from treadle.loop.context import write_context

            where = write_context(planned[0], self.about, self.wishes.context, self._base_name)
            return Built(
                str(where), planned[0].plan.digest, self.about.purpose, names, changes=changes,
                notes=tuple(self.notes),
            ), None  # fmt: skip
        made = [one.assemble() for one in planned]
        index = images.index(made, [one.plan for one in planned]) if len(made) > 1 else None
        top = index.digest if index is not None else made[0].digest
        from treadle.loop import outlet

        sent = outlet.send(
            made, index, output, self.about, force=self.wishes.force, cache=self.cache,
            report=self.report, attach=self._attachments(planned, made),
        )  # fmt: skip
        image = Image(
            top, self.about.purpose, {one.plan.platform: to_plain(one.plan) for one in planned},
            self.about.content or None, _size(made),
        )  # fmt: skip
        return Built(
            sent.reference, top, self.about.purpose, names, image.size_bytes, sent.sent_bytes,
            sent.blobs, changes, tuple(self.notes),
        ), image  # fmt: skip

    # ---- the plan ----

    def plan(self, platform: Platform) -> Planned:
        """All that the image for one platform depends on; nothing of it is made yet."""
        found = self._base(platform)
        base = images.Base(found.digest, found.config, found.layers)
        interpreter = self._interpreter(found)
        resolved = self._wheels(platform)
        under = images.SITE_PACKAGES
        parts: list[Part] = []
        makers: list[Callable[[], Blob]] = []
        process = self.about.process
        if interpreter is None:
            # One that was built with a shared libpython looks for it where it was installed.
            own = {"LD_LIBRARY_PATH": f"{images.ROOT}/python/lib"}
            process = replace(process, environment={**process.environment, **own})
            part, maker = self._own_interpreter(platform)
            parts.append(part)
            makers.append(maker)
            path = f"{images.ROOT}/python/bin/python{self.python}"
        else:
            path = interpreter.path
        for group in wheel.group(resolved):
            title = f"wheel {group[0].name}" if len(group) == 1 else f"{len(group)} small wheels"
            parts.append(Part("wheels", title, wheel.content(group, self.python)))
            makers.append(self._wheel_layer(group, title, under))
        sources = runtime.files(self.about.purpose)
        told = runtime.content(sources, self.python)
        parts.append(Part("runtime", "treadle", {**told, "python": path}))
        makers.append(self._runtime_layer(sources, told, under, path))
        if self.about.code:
            part, maker = self._code()
            parts.append(part)
            makers.append(maker)
        if self.about.model_folder is not None:
            parts.append(Part("model", "model", dict(self.about.model_files)))
            makers.append(self._model)
        plan = ImagePlan(
            self.about.purpose, str(platform), self.python, found.digest, str(self.compressor),
            tuple(parts), process, dict(self.about.annotations),
        )  # fmt: skip
        return Planned(plan, base, tuple(makers), resolved, path)

    def _base(self, platform: Platform) -> source.Source:
        shown = name = self._shown_base()
        if self.folder is not None and (kind := name.partition(":")[0]) in (
            "oci", "docker-archive", "oci-archive",
        ):  # fmt: skip
            name = f"{kind}:{self.folder / name.partition(':')[2]}"
        pinned = self._lock.base(shown, platform)
        found = source.fetch(name, platform, pinned, cache=self.cache, report=self.report)
        self._lock = self._lock.with_base(shown, platform, found.digest)
        self._base_name = shown
        return found

    def _shown_base(self) -> str:
        """The base as the user names it."""
        return self.wishes.base or self.section.base or f"python:{self.python}-slim"

    def _interpreter(self, found: source.Source) -> bases.Interpreter | None:
        """The base's Python; None: it has none, and one is laid over it."""
        told = bases.told(found.config)
        if told is None:
            known = self.cache.get("interpreters", found.digest)
            if known is None:
                self.report(f"looking for Python in {self._base_name}")
                told = bases.scanned(found.layers)
                self.cache.put("interpreters", found.digest, to_plain(told))
            else:
                told = from_plain(bases.Found, known)
        chosen = bases.chosen(told, self.python, self._base_name)
        if chosen is None and self.section.interpreter is None:
            raise Refused(
                f"{self._base_name} has no Python",
                hint=f"choose a base with Python {self.python}, or name a folder with one: "
                "build: {interpreter: PATH}",
            )
        return chosen

    def _wheels(self, platform: Platform) -> tuple[Wheel, ...]:
        about = self.about
        if about.purpose == "serve":
            wanted = needs.serve(about.requirements, about.flavor)
        elif about.purpose == "batch":
            wanted = needs.batch(about.requirements, about.flavor)
        elif about.purpose == "train":
            wanted = about.needs or needs.Needs(())
        else:
            wanted = needs.hub()
        self.notes += [note for note in wanted.notes if note not in self.notes]
        asked = (about.purpose, platform, self.python, wanted.requirements)
        locked = self._lock.wheels(*asked)
        if locked is None:
            locked = self._resolved(wanted.requirements, platform)
            if not any(map(dockerfile.is_source, locked)):
                self._lock = self._lock.with_wheels(*asked, locked)
        return locked

    def _resolved(self, requirements: Sequence[str], platform: Platform) -> tuple[Wheel, ...]:
        """Wheels alone; a Dockerfile takes sources too, where it cannot be otherwise."""

        def resolve(*, sources: bool) -> tuple[Wheel, ...]:
            return wheels.resolve(
                requirements, python=self.python, platform=platform, sources=sources,
                constraints=needs.installed(), cache=self.cache, report=self.report,
            )  # fmt: skip

        try:
            return resolve(sources=False)
        except Refused:
            if self.wishes.context is None:
                raise
        found = resolve(sources=True)
        built = [f"{one.name} {one.version}" for one in found if dockerfile.is_source(one)]
        self.notes.append(f"the Dockerfile builds {', '.join(built)} from source")
        return found

    # ---- layers ----

    def _cached(self, key: str, title: str, entries: Callable[[], Sequence[layer.Entry]]) -> Blob:
        found = self.cache.layer(key, title)
        if found is not None:
            return found
        self.report(f"layer: {title}", detail=True)

        def write(out: Any) -> tuple[str, str, int]:
            done = layer.write(entries(), self.compressor, out)
            return done.digest, done.diff_id, done.size_bytes

        return self.cache.keep_layer(key, title, self.compressor.media_type, write)

    def _wheel_layer(self, group: tuple[Wheel, ...], title: str, under: str) -> Callable[[], Blob]:
        def make() -> Blob:
            key = wheel.key(group, str(self.compressor), self.python, under)
            return self._cached(key, title, entries)

        def entries() -> Sequence[layer.Entry]:
            files = wheels.fetch(group, cache=self.cache, report=self.report)
            return wheel.located(group, files, under, self.python)

        return make

    def _runtime_layer(
        self, sources: dict[str, Path], told: dict[str, str], under: str, path: str
    ) -> Callable[[], Blob]:
        key = digest(["runtime", images.FORMAT, under, str(self.compressor), told, path])
        return lambda: self._cached(
            key, "treadle", lambda: runtime.entries(sources, under, self.python, path)
        )

    def _own_interpreter(self, platform: Platform) -> tuple[Part, Callable[[], Blob]]:
        from treadle.build import interpreter

        assert self.section.interpreter is not None
        root = Path(self.section.interpreter).expanduser()
        if self.folder is not None:
            root = self.folder / root
        files = interpreter.files(root, self.python, platform)
        told = interpreter.content(files)
        key = digest(["interpreter", images.FORMAT, str(self.compressor), told])
        title = f"Python {self.python}"
        under = f"{images.ROOT}/python"
        return Part("interpreter", title, told), lambda: self._cached(
            key, title, lambda: interpreter.entries(files, under, self.python)
        )

    def _code(self) -> tuple[Part, Callable[[], Blob]]:
        from treadle.base.digest import digest_file

        told = {name: digest_file(path) for name, path in self.about.code.items()}
        key = digest(["code", images.FORMAT, str(self.compressor), told])
        under = images.PROJECT.strip("/")
        return Part("code", "project", told), lambda: self._cached(
            key, "project",
            lambda: [layer.Entry(f"{under}/{n}", p) for n, p in self.about.code.items()],
        )  # fmt: skip

    def _model(self) -> Blob:
        """The model, uncompressed, read where it is; its digest is remembered by its content."""
        about = self.about
        assert about.model_folder is not None
        entries = model_entries(about)
        key = digest(["model", images.FORMAT, about.content])
        known = self.cache.get("models", key)
        if known is not None:
            return layer.described(entries, known["digest"], known["size"], "model")
        made = layer.streamed(entries, "model")
        self.cache.put("models", key, {"digest": made.digest, "size": made.size_bytes})
        return made

    # ---- what goes with it ----

    def _attachments(
        self, planned: Sequence[Planned], made: Sequence[BuiltImage]
    ) -> Callable[[], list[tuple[BuiltImage, str, bytes, dict[str, str]]]]:
        def documents() -> list[tuple[BuiltImage, str, bytes, dict[str, str]]]:
            from treadle.release import attest

            found = []
            for one, image in zip(planned, made, strict=True):
                facts = attest.Facts(
                    image.digest, self.about.purpose, one.plan.platform, to_plain(one.plan),
                    one.wheels, self._base_name, self.about.name, self.about.content,
                    dict(self.about.model_files), self.about.release, self.about.run,
                    self.about.origin,
                )  # fmt: skip
                found += [(image, kind, data, told) for kind, data, told in attest.documents(facts)]
            return found

        return documents

    # ---- the lock ----

    def _unlocked(self) -> lock.Lock:
        """Of a model directory, which has no project: remembered in the cache."""
        found = self.cache.get("locks", digest(["lock", self.about.requirements]))
        return lock.Lock() if found is None else lock.parse(found, "the remembered lock")

    def keep_lock(self) -> None:
        """Write treadle.lock, if anything was resolved."""
        if self._lock == self._before:
            return
        if self.folder is None:
            key = digest(["lock", self.about.requirements])
            self.cache.put("locks", key, lock.text(self._lock))
            return
        write_file(self.folder / lock.NAME, lock.text(self._lock).encode())
        self.report(f"{lock.NAME} says what the image is made of: commit it")
        self._before = self._lock

    def _tell_notes(self) -> None:
        for note in self.notes:
            self.report(note)


def model_entries(about: Subject) -> list[layer.Entry]:
    """The model's files under /models, and the list that the server compares them with."""
    import json

    assert about.model_folder is not None
    listed = json.dumps(dict(sorted(about.model_files.items()))).encode()
    found = layer.folder_entries(about.model_folder, sorted(about.model_files), images.MODELS)
    # Whether a file may be executed is the machine's business, not the model's.
    found = [replace(entry, executable=False) for entry in found]
    return [*found, layer.Entry(images.MODEL_FILES.strip("/"), listed)]


def _fields(change: images.LayerChange) -> tuple[str, str, str]:
    return change.layer, change.action, change.reason


def _size(made: Sequence[BuiltImage]) -> int:
    blobs = {
        blob.digest: blob.size_bytes
        for image in made
        for blob in (*image.layers, image.config, image.manifest)
    }
    return sum(blobs.values())
