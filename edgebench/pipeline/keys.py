"""The keys of built things: a hash of everything each of them depends on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.hashing import file_digest, value_digest
from edgebench.models.source import ModelSource
from edgebench.pipeline.plan import PlannedStep
from edgebench.pipeline.versions import building_code, package_versions
from edgebench.recipe import Recipe


def _foreign_source(kind: type) -> str | None:
    """The hash of the file of a technique from another package; ours are in `building_code`."""
    if kind.__module__.partition(".")[0] == "edgebench":
        return None
    source = inspect.getsourcefile(kind)
    return file_digest(Path(source)) if source else None


@dataclass(frozen=True)
class Keys:
    """Makes the keys of one recipe on one data set for one target.

    `device` is the fingerprint of the target's device, where it could be asked. `base`: the digest
    of base's tensors where nothing trained them, since a factory may read them from anywhere.
    """

    recipe: Recipe
    source: ModelSource
    data_fingerprint: str
    int8: str
    precisions: tuple[str, ...]
    opset: int
    device: str | None = None
    base: str | None = None

    def network(self, name: str) -> str:
        """The key of base or of a control."""
        return self._key(
            "network",
            name=name,
            model=self.source.identity,
            **({} if self.base is None else {"base": self.base}),
            data=self.data_fingerprint,
            training=self._training(),
            seed=self.recipe.seed,
        )

    def file(self, sha256: str) -> str:
        """The key of a user's own ONNX file."""
        return self._key("file", sha256=sha256)

    def step(self, before: str, step: PlannedStep) -> str:
        """The key of a technique applied to what has the key `before`."""
        technique = step.technique
        target = [self.int8, list(self.precisions), self.opset] if technique.for_target else None
        # A choice made by latencies of one device says nothing of another.
        device = self.device if technique.measures(step.options) else None
        return self._key(
            "step",
            before=before,
            technique=step.record(),
            identity=technique.identity(step.options),
            source=_foreign_source(type(technique)),
            data=self.data_fingerprint,
            training=self._training(),
            seed=self.recipe.seed,
            target=target,
            device=device,
        )

    def reference(self, of: str) -> str:
        """The key of the network that a step's result, of the key `of`, is held against."""
        return self._key("reference", of=of)

    def export(self, before: str, format: str, opset: int | None) -> str:
        """The key of a module's file; `opset` is None where the format has no such thing."""
        return self._key("export", before=before, format=format, opset=opset)

    def trial_export(self, format: str, opset: int | None) -> str:
        """The key of having seen that base's architecture can be exported."""
        return self._key(
            "trial export",
            model=self.source.identity,
            data=self.data_fingerprint,
            format=format,
            opset=opset,
        )

    def _training(self) -> dict[str, Any]:
        from edgebench.training.loop import training_device

        # Trained on a GPU, in bfloat16, it is another network.
        settings = self.recipe.training
        return {**settings.model_dump(), "device": training_device(settings).type}

    def _key(self, kind: str, **parts: Any) -> str:
        # Python's and edgebench's own version do not change what is built; the code's hash is in.
        used = {
            name: version
            for name, version in package_versions().items()
            if name not in {"python", "edgebench"}
        }
        return value_digest({"kind": kind, "code": building_code(), "versions": used, **parts})
