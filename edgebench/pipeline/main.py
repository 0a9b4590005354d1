"""The main job, stage by stage: prepare, measure, judge, report, remember."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from edgebench import __version__
from edgebench.data import Arrays, Dataset, gives_classes
from edgebench.errors import (
    NotMeasuredError,
    RecipeError,
    StorageError,
    UsageError,
)
from edgebench.hashing import value_digest
from edgebench.history import History
from edgebench.metrics.base import Kind
from edgebench.models.source import ModelSource, file_sha256, find_model
from edgebench.pipeline.build import Builder
from edgebench.pipeline.built import Built
from edgebench.pipeline.bundling import write_bundle
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.int8_format import choose_int8
from edgebench.pipeline.judging import judge_folder
from edgebench.pipeline.plan import (
    PlannedVariant,
    check_gates,
    check_kind,
    check_required,
    plan_variants,
)
from edgebench.pipeline.progress import Progress
from edgebench.pipeline.results import checked_device
from edgebench.pipeline.target_probe import TargetProbe
from edgebench.pipeline.task import Classification, Task, load_task
from edgebench.pipeline.versions import building_code, measuring_code, package_versions
from edgebench.recipe import Recipe
from edgebench.records import BuildRecord, Record, RunRecord, SearchRecord, Stage
from edgebench.report.base import write_reports, write_run_json
from edgebench.store import Store, read_json, write_atomically
from edgebench.target import Target, host_variable
from edgebench.transports.base import Transport, TransportSpec, open_transport

R = TypeVar("R", bound=Record)


@dataclass
class Job:
    """One run: what to do, where to write, whom to tell."""

    recipe: Recipe
    target: Target
    folder: RunFolder
    progress: Progress
    require: Sequence[str] = ()
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    searched: SearchRecord | None = None
    planned: tuple[PlannedVariant, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Everything the recipe names is looked up now, before any work."""
        self._check_kind()
        self.planned = plan_variants(self.recipe)
        check_gates(
            self.recipe.gates,
            where=self.recipe.where,
            scenarios=self.recipe.protocol.scenarios,
        )
        self._check_answers()
        check_required(self.recipe, self.require)

    def run(self) -> RunRecord:
        """The whole job; raises EdgebenchError. What is done is kept, and taken up next time."""
        transport = connect(self.target)
        with self.folder.held():
            history = History.open()
            with self._stage("look at the device"):
                device = checked_device(transport.probe(), where=f"target '{self.target.name}'")
            build = self.prepare(device, transport)
            self.measure(transport, build)
            run = self.judge(build)
            publish(run, self.folder, history, self.progress)
        return run

    def prepare(
        self, device: dict[str, Any] | None, transport: Transport | None = None
    ) -> BuildRecord:
        """Build everything and write the bundle. The folder must be held.

        Without `device` and `transport`, nothing can be asked of the target meanwhile.
        """
        with self._stage("load model and data"):
            source = find_model(
                self.recipe.model, weights=self.recipe.weights, options=self.recipe.model_options
            )
            task = load_task(self.recipe, source)
        int8, why = choose_int8(self.target, device)
        run_id, taken_up = self.folder.take_up(self._plan_key(source, task.dataset))
        if taken_up:
            self.progress.say(f"going on with the unfinished run {run_id}")
        builder = Builder(
            self.recipe,
            self.target,
            source,
            task,
            int8,
            Store.default(),
            self.progress,
            device,
            self._probe(transport, task),
        )
        if device is None:
            self.warnings.append(f"int8 was made in the format {int8}: {why}")
        built = self._build(builder, source)
        self.warnings += task.warnings(self.recipe, source)
        self.stages += builder.stages
        with self._stage("write the bundle"):
            variants = write_bundle(
                self.folder,
                built,
                task,
                recipe=self.recipe,
                target=self.target,
                run_id=run_id,
            )
        build = BuildRecord(
            run_id=run_id,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            edgebench_version=__version__,
            versions=package_versions(),
            recipe=self.recipe.model_dump(mode="json"),
            target={
                **self.target.model_dump(mode="json"),
                "int8_used": int8,
                "int8_reason": why,
            },
            data=task.record(),
            variants=variants,
            stages=tuple(self.stages),
            warnings=tuple(self.warnings),
            search=self.searched,
        )
        write_atomically(self.folder.build_file, build.model_dump_json(indent=1))
        return build

    def measure(self, transport: Transport, build: BuildRecord) -> None:
        """Run the agent on the target, following it model by model."""
        per_model = self.recipe.protocol.processes
        models = sum(v.artifact is not None for v in build.variants)
        start = time.perf_counter()
        self.progress.begin(f"measure on {self.target.name}", models * per_model)
        finished = 0

        def on_event(event: dict[str, Any]) -> None:
            nonlocal finished
            kind = event.get("event")
            if kind == "waiting":
                self.progress.say("another run is measuring on this machine; waiting for it")
            elif kind == "process":
                done = finished * per_model + int(event.get("process", 0))
                self.progress.advance(done, str(event.get("name", "")))
            elif kind == "done":
                finished += 1
                self.progress.advance(finished * per_model, str(event.get("name", "")))
                if event.get("status") == "failed":
                    self.progress.say(f"{event.get('name')} failed: {event.get('problem')}")

        try:
            transport.measure(self.folder.bundle, self.folder.results, on_event)
        finally:
            self.progress.end()
        self.stages.append(
            Stage(name=f"measure on {self.target.name}", seconds=time.perf_counter() - start)
        )

    def judge(self, build: BuildRecord) -> RunRecord:
        """Compare and judge."""
        late = [s for s in self.stages if s not in build.stages]
        start = time.perf_counter()
        run = judge_folder(self.folder, build, self.require, late)
        judging = Stage(name="compare and judge", seconds=time.perf_counter() - start)
        return run.model_copy(update={"stages": (*run.stages, judging)})

    def _check_kind(self) -> None:
        if self.recipe.search is not None:
            raise RecipeError(
                "this recipe is one to search with",
                where=self.recipe.where,
                hint="use 'edgebench search', or leave 'search' out",
            )

    def _check_answers(self) -> None:
        """Raise RecipeError for what the data does not allow."""
        answers: Kind = "classes" if gives_classes(self.recipe.data) else "any"
        if answers == "any" and self.recipe.search is not None:
            raise RecipeError(
                "a search decides by classes, and this data has no labels",
                where=self.recipe.where,
                hint="name chains as variants, and use 'edgebench run'",
            )
        check_kind(self.recipe.gates, answers, where=f"{self.recipe.where}: gates")

    def _build(self, builder: Builder, source: ModelSource) -> list[Built]:
        return [*self._build_start(builder, source), *self._build_variants(builder)]

    def _build_start(self, builder: Builder, source: ModelSource) -> list[Built]:
        """Base first, then the controls."""
        built = [builder.base()]
        controls = self.recipe.controls
        trained = controls.independent if source.trainable and builder.task.trains else 0
        built += [builder.control(i + 1) for i in range(trained)]
        built += [
            builder.control_file(trained + i + 1, Path(file))
            for i, file in enumerate(controls.files)
        ]
        return built

    def _build_variants(self, builder: Builder) -> list[Built]:
        return [one for planned in self.planned for one in builder.variant(planned)]

    def _probe(self, transport: Transport | None, task: Task) -> TargetProbe | None:
        # It feeds one array and reads classes.
        if transport is None or not isinstance(task, Classification):
            return None
        return TargetProbe(
            transport, self.target, self.recipe.protocol, task.dataset.classes, self.recipe.seed
        )

    def _plan_key(self, source: ModelSource, dataset: Dataset | Arrays) -> str:
        return value_digest(
            {
                "recipe": self.recipe.model_dump(mode="json"),
                "target": self.target.model_dump(mode="json"),
                "model": source.identity,
                "measuring": measuring_code(),
                "controls": [file_sha256(Path(f), "control") for f in self.recipe.controls.files],
                "data": dataset.fingerprint,
                "code": building_code(),
                "versions": package_versions(),
            }
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress.begin(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.progress.end()
        self.stages.append(Stage(name=name, seconds=time.perf_counter() - start))


def connect(target: Target) -> Transport:
    """The way to a target; raises NotMeasuredError where it has a host to be named and none is."""
    if target.transport == "ssh" and not target.host:
        raise NotMeasuredError(
            f"the target '{target.name}' has no host",
            hint=(
                f"give one with --host user@host[:port], with {host_variable(target.name)}, or as "
                f"'host:' in its file (see 'edgebench targets show {target.name}'); or carry the "
                f"work there by hand: 'edgebench bundle --target {target.name}', then "
                "'edgebench ingest'"
            ),
        )
    return open_transport(
        TransportSpec(
            name=target.name,
            transport=target.transport,
            host=target.host,
            python=target.python,
            runtime=target.runtime.model_dump(mode="json"),
            env=target.env,
            connect_timeout_s=target.connect_timeout_s,
        )
    )


def publish(run: RunRecord, folder: RunFolder, history: History, progress: Progress) -> None:
    """Write every report of a judged run, remember it, and mark its folder as finished.

    A history that fails now must not lose the run: that is said, and the run stands.
    """
    progress.begin("write the report")
    try:
        write_run_json(run, folder.path)
        write_reports(run, folder.path)
    finally:
        progress.end()
    try:
        history.add(run, folder.path.resolve())
    except (StorageError, UsageError) as error:
        progress.say(f"the run is not in the history: {error.line()}")
    folder.finish()


def read_build(folder: RunFolder) -> BuildRecord:
    """What was built in a folder; raises StorageError."""
    return _read(folder.build_file, BuildRecord)


def read_run(folder: RunFolder) -> RunRecord:
    """The finished run in a folder; raises StorageError."""
    return _read(folder.record_file, RunRecord)


def _read(path: Path, kind: type[R]) -> R:
    from pydantic import ValidationError

    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise StorageError(
            f"is no record this edgebench can read: {'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}",
            where=str(path),
            hint="was it written by another version?",
        ) from error
