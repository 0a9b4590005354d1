"""Build on the host: train base and controls, run each chain, export every file.

Each step is an entry of the store, so a killed run loses at most the step it was in. A chain that
fails is marked so; the other variants go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.agent.runtimes import RUNTIMES
from edgebench.data import Dataset
from edgebench.errors import BuildError, EdgebenchError, StorageError, UsageError, one_line
from edgebench.hashing import named_seed
from edgebench.models.source import ModelSource, check_classifier, file_sha256, load_weights
from edgebench.pipeline.keys import Keys
from edgebench.pipeline.plan import PlannedStep, PlannedVariant
from edgebench.pipeline.progress import Progress
from edgebench.recipe import Recipe
from edgebench.records import Stage
from edgebench.store import Store
from edgebench.target import Target
from edgebench.techniques.base import Context, OnnxTechnique, TorchTechnique

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
NOTES = "step.json"
PARITY_EXAMPLES = 64


@dataclass(frozen=True)
class Built:
    """One model file, or why there is none.

    `format`: "onnx", or "pt2" where torch itself runs it; files of it end so. `skipped`: the chain
    does not apply to this model or to this target.
    """

    name: str
    file: Path | None
    control: bool = False
    steps: tuple[PlannedStep, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None
    skipped: bool = False
    format: str = "onnx"


@dataclass
class Builder:
    """Builds the models of one recipe. Create one a run."""

    recipe: Recipe
    target: Target
    source: ModelSource
    dataset: Dataset
    int8: str
    store: Store
    progress: Progress
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = Keys(
            self.recipe,
            self.source,
            self.dataset.fingerprint,
            self.int8,
            tuple(self.target.precisions),
            self.target.opset,
        )
        self.probabilities = False
        self.format = RUNTIMES[self.target.runtime.name].suffix.lstrip(".")
        self._model = f"model.{self.format}"
        self._base: nn.Module | None = None

    def base(self) -> Built:
        """The uncompressed model; without it there is no run, so its errors are not caught."""
        if self.source.onnx_file is not None:
            file = self._user_file("base", self.source.onnx_file, self.keys.network("base"))
            return self._built("base", file)
        module, notes = self._network("base")
        self._base = module
        where = f"model '{self.source.spec}'"
        check_classifier(module, self.dataset.input_shape, self.dataset.classes, where=where)
        self.probabilities = self._ends_in_softmax(module)
        file, parity = self._export(self.keys.network("base"), "base", lambda: module)
        return self._built("base", file, notes=(*notes, parity))

    def control(self, index: int) -> Built:
        """A network of base's architecture, trained alike from another seed."""
        name = f"independent-{index}"

        def make() -> Built:
            module, notes = self._network(name)
            file, parity = self._export(self.keys.network(name), name, lambda: module)
            return self._built(name, file, control=True, notes=(*notes, parity))

        return self._guarded(Built(name, None, control=True), make)

    def control_file(self, index: int, path: Path) -> Built:
        """A network the user trained as base was, from another seed, as an ONNX file."""
        name = f"independent-{index}"
        # A file that is not there is the user's mistake, not a failed control: not guarded.
        key = self.keys.file(file_sha256(path, "control"))
        return self._built(
            name,
            self._user_file(name, path, key),
            control=True,
            notes=(f"from {path.name}",),
        )

    def variant(self, planned: PlannedVariant) -> Built:
        """A variant's chain, applied step by step."""
        empty = Built(planned.name, None, steps=planned.steps)
        problem = self._does_not_apply(planned)
        if problem is not None:
            return Built(planned.name, None, steps=planned.steps, problem=problem, skipped=True)
        return self._guarded(empty, lambda: self._chain(planned))

    def _does_not_apply(self, planned: PlannedVariant) -> str | None:
        """Why a chain cannot work on this model for this target, whatever its options."""
        on_torch = next((s.technique.name for s in planned.steps if s.on_torch), None)
        on_onnx = next((s.technique.name for s in planned.steps if not s.on_torch), None)
        if not self.source.trainable and on_torch is not None:
            return (
                f"'{on_torch}' works on a torch module and cannot change an ONNX file; give the "
                "model as package.module:factory"
            )
        if self.format != "onnx" and on_onnx is not None:
            return (
                f"'{on_onnx}' works on an ONNX file, and the runtime '{self.target.runtime.name}' "
                f"runs .{self.format} files; use a target whose runtime reads ONNX"
            )
        return None

    def _guarded(self, empty: Built, make: Callable[[], Built]) -> Built:
        try:
            return make()
        except StorageError:
            # A full disk fails every variant alike: stop, so that the run can be taken up again.
            raise
        except EdgebenchError as error:
            problem = error.line()
        except Exception as error:
            problem = one_line(f"{type(error).__name__}: {error}")
        self.progress.say(f"{empty.name} failed: {problem}")
        return Built(empty.name, None, control=empty.control, steps=empty.steps, problem=problem)

    def _chain(self, planned: PlannedVariant) -> Built:
        key = self.keys.network("base")
        given = self.source.onnx_file
        file = self._user_file("base", given, key) if given is not None else None
        notes: list[str] = []
        done: list[tuple[PlannedStep, dict[str, Any]]] = []
        folder: Path | None = None
        pending = list(planned.steps)
        while pending and pending[0].on_torch:
            step = pending.pop(0)
            key = self.keys.step(key, step)
            folder, outcome = self._torch_step(planned.name, key, step, done, folder)
            notes += outcome["notes"]
            done.append((step, outcome["structure"]))
        if file is None:
            file, parity = self._export(key, planned.name, lambda: self._module(done, folder))
            notes.append(parity)
            key = self._export_key(key)
        for step in pending:
            key = self.keys.step(key, step)
            file, step_notes = self._onnx_step(planned.name, key, step, file)
            notes += step_notes
        return self._built(planned.name, file, steps=planned.steps, notes=tuple(notes))

    def _built(self, name: str, file: Path, **known: Any) -> Built:
        return Built(name, file, format=self.format, **known)

    def _network(self, name: str) -> tuple[nn.Module, list[str]]:
        """A trained network (or base with the user's weights), from the store where it is there."""
        from edgebench.training.loop import deterministic, fit
        from edgebench.training.losses import cross_entropy

        notes: list[str] = []
        with deterministic(named_seed(self.recipe.seed, name, "init")):
            module = self.source.build(self.dataset.input_shape, self.dataset.classes)
        where = f"model '{self.source.spec}'"
        check_classifier(module, self.dataset.input_shape, self.dataset.classes, where=where)
        if name == "base" and self.source.weights is not None:
            load_weights(module, self.source.weights)
            return module.eval(), [f"weights from {self.source.weights.name}"]

        def make(folder: Path) -> None:
            x, y = self._context("", None).tensors()
            fit(
                module,
                x,
                cross_entropy(y, probabilities=self._ends_in_softmax(module)),
                self.recipe.training,
                seed=named_seed(self.recipe.seed, name, "order"),
                what=name,
                on_epoch=self._on_epoch,
            )
            _save(module, folder)

        folder = self._step(f"train {name}", self.keys.network(name), make, total=100)
        _load(module, folder)
        return module.eval(), notes

    def _torch_step(
        self,
        variant: str,
        key: str,
        step: PlannedStep,
        done: list[tuple[PlannedStep, dict[str, Any]]],
        folder: Path | None,
    ) -> tuple[Path, dict[str, Any]]:
        technique = step.technique
        assert isinstance(technique, TorchTechnique)  # noqa: S101 - `on_torch` said so

        def make(new: Path) -> None:
            module, outcome = technique.apply(
                self._module(done, folder), step.options, self._context(variant, self._base)
            )
            _save(module, new)
            (new / NOTES).write_text(
                json.dumps({"structure": outcome.structure, "notes": outcome.notes})
            )

        made = self._step(f"{variant}: {technique.name}", key, make, total=100)
        return made, json.loads((made / NOTES).read_text())

    def _onnx_step(
        self, variant: str, key: str, step: PlannedStep, source: Path
    ) -> tuple[Path, list[str]]:
        from edgebench.exporters.onnx_from_torch import compare_files

        technique = step.technique
        assert isinstance(technique, OnnxTechnique)  # noqa: S101 - `on_torch` said so

        def make(new: Path) -> None:
            outcome = technique.apply(
                source, new / self._model, step.options, self._context(variant, None)
            )
            seen = compare_files(source, new / self._model, self.dataset.test_x[:PARITY_EXAMPLES])
            (new / NOTES).write_text(json.dumps({"notes": [*outcome.notes, seen]}))

        made = self._step(f"{variant}: {technique.name}", key, make)
        return made / self._model, json.loads((made / NOTES).read_text())["notes"]

    def _export(self, key: str, name: str, module: Callable[[], nn.Module]) -> tuple[Path, str]:
        from edgebench.exporters.onnx_from_torch import export_onnx
        from edgebench.exporters.pt2_from_torch import export_pt2

        examples = self.dataset.test_x[:PARITY_EXAMPLES]

        def make(new: Path) -> None:
            if self.format == "pt2":
                note = export_pt2(module(), examples, new / self._model)
            else:
                note = export_onnx(module(), examples, new / self._model, opset=self.target.opset)
            (new / NOTES).write_text(json.dumps({"note": note}))

        made = self._step(f"{name}: export", self._export_key(key), make)
        return made / self._model, json.loads((made / NOTES).read_text())["note"]

    def _export_key(self, before: str) -> str:
        # A program of torch.export knows no ONNX operator set.
        opset = self.target.opset if self.format == "onnx" else None
        return self.keys.export(before, self.format, opset)

    def _module(
        self, done: list[tuple[PlannedStep, dict[str, Any]]], folder: Path | None
    ) -> nn.Module:
        """The module after the steps in `done`, whose last one is stored in `folder`."""
        from copy import deepcopy

        if self._base is None:
            raise BuildError("there is no base module to start from")
        module = deepcopy(self._base)
        context = self._context("", self._base)
        for step, structure in done:
            technique = step.technique
            assert isinstance(technique, TorchTechnique)  # noqa: S101 - only such are in `done`
            module = technique.restructure(module, step.options, structure, context)
        if folder is not None:
            _load(module, folder)
        return module.eval()

    def _user_file(self, name: str, path: Path, key: str) -> Path:
        """A user's own ONNX file, checked and as one file."""
        import onnx

        from edgebench.exporters.onnx_file import check_fits, classifier_of, read_onnx

        if self.format != "onnx":
            raise UsageError(
                f"the runtime '{self.target.runtime.name}' runs .{self.format} files, no ONNX file",
                where=str(path),
                hint="give the model as package.module:factory, or a target whose runtime reads "
                "ONNX",
            )
        model = read_onnx(path)
        classifier = classifier_of(model, where=str(path))
        check_fits(classifier, self.dataset.input_shape, self.dataset.classes, where=str(path))

        def make(new: Path) -> None:
            onnx.save(model, new / self._model)

        return self._step(f"{name}: check", key, make) / self._model

    def _context(self, purpose: str, base: nn.Module | None) -> Context:
        new_module = None
        if self.source.trainable:

            def new_module(**options: Any) -> nn.Module:
                return self.source.build(self.dataset.input_shape, self.dataset.classes, **options)

        return Context(
            train_x=self.dataset.train_x,
            train_y=self.dataset.train_y,
            classes=self.dataset.classes,
            training=self.recipe.training,
            int8=self.int8,  # type: ignore[arg-type] # checked by the target
            precisions=self.target.precisions,
            seed=self.recipe.seed,
            new_module=new_module,
            base=base,
            probabilities=self.probabilities,
            on_epoch=self._on_epoch,
        )

    def _ends_in_softmax(self, module: nn.Module) -> bool:
        import torch

        from edgebench.metrics.base import looks_like_probabilities
        from edgebench.training.loop import predict

        return looks_like_probabilities(
            predict(module, torch.from_numpy(self.dataset.test_x[:32])).numpy()
        )

    def _on_epoch(self, done: int, total: int, loss: float) -> None:
        self.progress.advance(100 * done / total, f"epoch {done} of {total}, loss {loss:.3f}")

    def _step(
        self, name: str, key: str, make: Callable[[Path], None], total: float | None = None
    ) -> Path:
        """One entry of the store, with its progress and its time in the record."""
        self.progress.begin(name, total)
        start = time.perf_counter()
        reused = False
        try:
            folder, reused = self.store.obtain(key, make)
        finally:
            self.progress.end(reused=reused)
        self.stages.append(Stage(name=name, seconds=time.perf_counter() - start, reused=reused))
        return folder


def _save(module: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(folder / WEIGHTS))


def _load(module: nn.Module, folder: Path) -> None:
    from safetensors.torch import load_model

    load_model(module, folder / WEIGHTS)
