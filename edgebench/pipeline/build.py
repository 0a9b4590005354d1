"""Build on the host: train base and controls, run each chain, export every file.

Each step is an entry of the store, so a killed run loses at most the epoch it was in. A chain that
fails is marked so; the other variants go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebench.data import Arrays, Dataset
from edgebench.errors import BuildError, EdgebenchError, StorageError, UsageError, one_line
from edgebench.models.source import ModelSource, file_sha256
from edgebench.pipeline.build_context import BuildContext
from edgebench.pipeline.built import (
    NOTES,
    Built,
    Done,
    answers_of_file,
    answers_of_module,
    read_outcome,
    write_outcome,
)
from edgebench.pipeline.exporting import PARITY_EXAMPLES, Exporter
from edgebench.pipeline.keys import Keys
from edgebench.pipeline.networks import (
    Networks,
    Workbench,
    read_weights,
    save_weights,
    tensors_digest,
)
from edgebench.pipeline.plan import PlannedStep, PlannedVariant
from edgebench.pipeline.progress import Progress
from edgebench.pipeline.target_probe import TargetProbe
from edgebench.pipeline.task import Task
from edgebench.recipe import Recipe, reference_name
from edgebench.records import Figure, Stage
from edgebench.store import Store
from edgebench.target import Target
from edgebench.techniques.base import OnnxTechnique, Outcome, TorchTechnique

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Builder:
    """Builds the models of one recipe. Create one a run.

    `device` is the agent's `device.json`, `probe` measures on the target; None where it cannot be
    reached.
    """

    recipe: Recipe
    target: Target
    source: ModelSource
    task: Task
    int8: str
    store: Store
    progress: Progress
    device: dict[str, Any] | None = None
    probe: TargetProbe | None = None
    bench: Workbench = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(
            self.recipe,
            self.source,
            self.dataset.fingerprint,
            self.int8,
            tuple(self.target.precisions),
            self.target.opset,
            None if self.device is None else self.device["fingerprint"],
        )
        self.bench = Workbench(self.store, self.progress)
        self._exporter = Exporter(self.target, self.task)
        self.format = self._exporter.format
        self._model = f"model.{self.format}"
        self._networks = Networks(self.recipe, self.source, self.task, self.keys, self.bench)
        self._surroundings = BuildContext(
            self.recipe,
            self.target,
            self.task,
            self.int8,
            self._networks,
            self.device,
            self.probe,
            self._exporter,
            lambda: self.base().file or Path(),
        )

    @property
    def dataset(self) -> Dataset | Arrays:
        """The data of the run."""
        return self.task.dataset

    @property
    def stages(self) -> list[Stage]:
        """What was made, or was there already, and how long each took."""
        return self.bench.stages

    def base(self) -> Built:
        """The uncompressed model; without it there is no run, so its errors are not caught."""
        around = self._surroundings
        if self.source.onnx_file is not None:
            file = self._user_file("base", self.source.onnx_file, self.keys.network("base"))
            around.answer_base = answers_of_file(file)
            return self._built("base", file, notes=tuple(self.task.notes()))
        self._try_export()
        module, notes = self._networks.trained("base")
        if not self.task.trains:
            self.keys = replace(self.keys, base=tensors_digest(module))
        around.base = module
        around.probabilities = self.task.probabilities(module)
        around.answer_base = answers_of_module(module)
        file, parity = self._export(self.keys.network("base"), "base", lambda: module)
        return self._built("base", file, notes=(*self.task.notes(), *notes, parity))

    def control(self, index: int) -> Built:
        """A network of base's architecture, trained alike from another seed."""
        name = f"independent-{index}"

        def make() -> Built:
            module, notes = self._networks.trained(name)
            self._surroundings.controls.append(answers_of_module(module))
            file, parity = self._export(self.keys.network(name), name, lambda: module)
            return self._built(name, file, control=True, notes=(*notes, parity))

        return self._guarded(Built(name, None, control=True), make)

    def control_file(self, index: int, path: Path) -> Built:
        """A network the user trained as base was, from another seed, as an ONNX file."""
        name = f"independent-{index}"
        # A file that is not there is the user's mistake, not a failed control: not guarded.
        key = self.keys.file(file_sha256(path, "control"))
        file = self._user_file(name, path, key)
        self._surroundings.controls.append(answers_of_file(file))
        return self._built(name, file, control=True, notes=(f"from {path.name}",))

    def variant(self, planned: PlannedVariant) -> list[Built]:
        """A variant's chain, applied step by step, and the reference it is measured beside."""
        empty = Built(planned.name, None, steps=planned.steps)
        problem = self._does_not_apply(planned)
        if problem is not None:
            return [Built(planned.name, None, steps=planned.steps, problem=problem, skipped=True)]
        done: list[Done] = []
        built = [self._guarded(empty, lambda: self._chain(planned, done))]
        last = done[-1].step.technique if done else None
        if built[0].problem is None and isinstance(last, TorchTechnique):
            name = reference_name(planned.name)
            wanted = last.reference_text(done[-1].step.options)
            if wanted is not None:
                empty = Built(name, None, reference=wanted)
                built.append(
                    self._guarded(empty, lambda: self._reference(planned, done, name, wanted))
                )
        return built

    def candidate(self, name: str, steps: tuple[PlannedStep, ...]) -> Built:
        """A chain that a search tries: built like a variant, without its reference."""
        planned = PlannedVariant(name, steps)
        empty = Built(name, None, steps=steps)
        problem = self._does_not_apply(planned)
        if problem is not None:
            return Built(name, None, steps=steps, problem=problem, skipped=True)
        return self._guarded(empty, lambda: self._chain(planned, []))

    @property
    def probabilities(self) -> bool:
        """Whether base answers with probabilities, not logits."""
        return self._surroundings.probabilities

    def validation(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The examples and labels that choices are made on."""
        x, y = self._surroundings.context().validation()
        return x.numpy(), y.numpy()

    def control_answers(self) -> list[NDArray[np.float32]]:
        """Each control's answers to the examples that choices are made on."""
        return self._surroundings.control_answers

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
        return Built(
            empty.name,
            None,
            control=empty.control,
            reference=empty.reference,
            steps=empty.steps,
            problem=problem,
        )

    def _chain(self, planned: PlannedVariant, done: list[Done]) -> Built:
        """The variant's file; `done` gets each step on the module."""
        key = self.keys.network("base")
        given = self.source.onnx_file
        file = self._user_file("base", given, key) if given is not None else None
        notes: list[str] = []
        figures: list[Figure] = []
        pending = list(planned.steps)
        while pending and pending[0].on_torch:
            step = pending.pop(0)
            key = self.keys.step(key, step)
            folder = self._torch_step(planned.name, key, step, done)
            outcome = read_outcome(folder)
            notes += outcome.notes
            figures += outcome.figures
            done.append(Done(step, outcome.structure, folder))
        if file is None:
            file, parity = self._export(key, planned.name, lambda: self._module(done))
            notes.append(parity)
            key = self._export_key(key)
        for step in pending:
            key = self.keys.step(key, step)
            file, outcome = self._onnx_step(planned.name, key, step, file)
            notes += outcome.notes
            figures += outcome.figures
        return self._built(
            planned.name, file, steps=planned.steps, notes=tuple(notes), figures=tuple(figures)
        )

    def _reference(
        self, planned: PlannedVariant, done: list[Done], name: str, wanted: str
    ) -> Built:
        """The network the chain's last step on the module is to be held against."""
        key = self.keys.network("base")
        for one in done:
            key = self.keys.step(key, one.step)
        key = self.keys.reference(key)
        technique, options = done[-1].step.technique, done[-1].step.options
        assert isinstance(technique, TorchTechnique)  # noqa: S101 - only such are in `done`

        def make(new: Path) -> None:
            module = technique.reference(
                self._module(done[:-1]), options, self._surroundings.context(self._scratch(key))
            )
            save_weights(module, new)

        folder = self.bench.step(f"{planned.name}: reference", key, make, total=100)
        before = self._module(done[:-1])
        read_weights(before, folder)
        file, parity = self._export(key, name, before.eval)
        return self._built(name, file, reference=wanted, notes=(wanted, parity))

    def _built(self, name: str, file: Path, **known: Any) -> Built:
        return Built(name, file, format=self.format, **known)

    def _scratch(self, key: str) -> Path:
        return self.store.scratch(key)

    def _torch_step(self, variant: str, key: str, step: PlannedStep, done: list[Done]) -> Path:
        technique = step.technique
        assert isinstance(technique, TorchTechnique)  # noqa: S101 - `on_torch` said so

        def make(new: Path) -> None:
            context = self._surroundings.context(self._scratch(key))
            module, outcome = technique.apply(self._module(done), step.options, context)
            save_weights(module, new)
            write_outcome(new, outcome)

        return self.bench.step(f"{variant}: {technique.name}", key, make, total=100)

    def _onnx_step(
        self, variant: str, key: str, step: PlannedStep, source: Path
    ) -> tuple[Path, Outcome]:
        from edgebench.exporters.onnx_from_torch import compare_files

        technique = step.technique
        assert isinstance(technique, OnnxTechnique)  # noqa: S101 - `on_torch` said so

        def make(new: Path) -> None:
            context = self._surroundings.context(self._scratch(key))
            outcome = technique.apply(source, new / self._model, step.options, context)
            seen = compare_files(source, new / self._model, self.task.examples(PARITY_EXAMPLES))
            outcome.notes.append(seen)
            write_outcome(new, outcome)

        made = self.bench.step(f"{variant}: {technique.name}", key, make)
        return made / self._model, read_outcome(made)

    def _try_export(self) -> None:
        """Export base with its first weights where it is still to be trained.

        A model that cannot be exported is then told of in seconds, not after the training.
        """
        trained = self.source.weights is None and self.task.trains
        if not trained or self.store.find(self.keys.network("base")) is not None:
            return
        self.bench.step(
            "base: try the export",
            self.keys.trial_export(self.format, self._exporter.opset),
            lambda _: self._exporter.check(self._networks.fresh("base")),
        )

    def _export(self, key: str, name: str, module: Callable[[], nn.Module]) -> tuple[Path, str]:
        def make(new: Path) -> None:
            note = self._exporter.write(module(), new / self._model)
            (new / NOTES).write_text(json.dumps({"note": note}))

        made = self.bench.step(f"{name}: export", self._export_key(key), make)
        return made / self._model, json.loads((made / NOTES).read_text())["note"]

    def _export_key(self, before: str) -> str:
        return self.keys.export(before, self.format, self._exporter.opset)

    def _module(self, done: list[Done]) -> nn.Module:
        """The module after the steps in `done`."""
        if self._surroundings.base is None:
            raise BuildError("there is no base module to start from")
        module = deepcopy(self._surroundings.base)
        context = self._surroundings.context()
        for one in done:
            technique = one.step.technique
            assert isinstance(technique, TorchTechnique)  # noqa: S101 - only such are in `done`
            module = technique.restructure(module, one.step.options, one.structure, context)
        if done:
            read_weights(module, done[-1].folder)
        return module.eval()

    def _user_file(self, name: str, path: Path, key: str) -> Path:
        """A user's own ONNX file, checked and as one file."""
        import onnx

        from edgebench.exporters.onnx_file import read_onnx

        if self.format != "onnx":
            raise UsageError(
                f"the runtime '{self.target.runtime.name}' runs .{self.format} files, no ONNX file",
                where=str(path),
                hint="give the model as package.module:factory, or a target whose runtime reads "
                "ONNX",
            )
        model = read_onnx(path)
        self.task.check_file(model, path)

        def make(new: Path) -> None:
            onnx.save(model, new / self._model)

        return self.bench.step(f"{name}: check", key, make) / self._model
