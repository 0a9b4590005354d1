"""The file that a target's runtime reads, from a module."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.agent.runtimes import RUNTIMES
from edgebench.pipeline.task import Task
from edgebench.target import Target

if TYPE_CHECKING:
    from torch import nn

PARITY_EXAMPLES = 64


@dataclass(frozen=True)
class Exporter:
    """Writes the modules of a task for one target."""

    target: Target
    task: Task

    @property
    def format(self) -> str:
        """What a file's name ends in: "onnx" or "pt2"."""
        return RUNTIMES[self.target.runtime.name].suffix.lstrip(".")

    @property
    def opset(self) -> int | None:
        """The ONNX operator set; a program of torch.export knows none."""
        return self.target.opset if self.format == "onnx" else None

    def write(self, module: nn.Module, file: Path) -> str:
        """Export a module; returns what the comparison with it saw. Raises BuildError."""
        from edgebench.exporters.onnx_from_torch import export_onnx
        from edgebench.exporters.pt2_from_torch import export_pt2

        examples = self.task.examples(PARITY_EXAMPLES)
        if self.format == "pt2":
            return export_pt2(module, examples, file)
        return export_onnx(module, examples, file, opset=self.target.opset)

    def check(self, module: nn.Module) -> None:
        """Raise BuildError where a module, trained or not, cannot be exported."""
        from edgebench.exporters.onnx_from_torch import write_onnx
        from edgebench.exporters.pt2_from_torch import write_pt2

        examples = self.task.examples(PARITY_EXAMPLES)
        with tempfile.TemporaryDirectory(prefix="edgebench-export-") as folder:
            file = Path(folder) / f"model.{self.format}"
            if self.format == "pt2":
                write_pt2(module, examples, file)
            else:
                write_onnx(module, examples, file, opset=self.target.opset)
