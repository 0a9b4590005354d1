"""What is known of a chain that a search tries: its file, its latency and answers on the target."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edgebench import compare
from edgebench.errors import BuildError, NotMeasuredError
from edgebench.exporters.onnx_file import compressed_size, count_parameters, read_onnx
from edgebench.metrics.base import Context, Outputs
from edgebench.pipeline.build import Builder
from edgebench.pipeline.built import Built
from edgebench.pipeline.target_probe import Probed
from edgebench.records import Estimate

# What is read off a candidate's file, by the metrics' names.
FROM_FILE = (
    "size_bytes",
    "compressed_bytes",
    "parameters",
    "sparsity",
    "size_ratio",
    "compressed_size_ratio",
)


class Judge:
    """Measures candidates of one search against its base, on the validation examples.

    Raises NotMeasuredError where base does not run on the target.
    """

    def __init__(self, builder: Builder, base: Built) -> None:
        assert base.file is not None  # noqa: S101 - a run without base ends before
        assert builder.probe is not None  # noqa: S101 - the caller reached the target
        self._probe = builder.probe
        self._base = base.file
        self._inputs, self._labels = builder.validation()
        self._probabilities = builder.probabilities
        answers, _ = self._probe.measure(self._base, {}, self._inputs)
        # One resample is enough: a search goes by the points, not by their intervals.
        once = np.ones((1, self.examples), dtype=np.float32)
        controls = tuple(self._outputs(one) for one in builder.control_answers())
        self._context = Context(self._outputs(answers), controls, once)
        self._sizes = _of_file(self._base)

    @property
    def examples(self) -> int:
        """How many examples it judges on."""
        return len(self._labels)

    def metrics(self, file: Path) -> dict[str, float]:
        """A candidate's metrics by name, without those that have no value.

        Infinite where its answers are base's and the metric has no end there. Raises BuildError
        where it does not run on the target, NotMeasuredError where the target is not reached.
        """
        probed = self._measured(file)
        outputs = self._outputs(probed.answers)
        values, _ = compare.model_metrics(outputs)
        compared = compare.pair_metrics(outputs, self._context)
        sizes = _of_file(file)
        ratios = compare.size_ratios(sizes, self._sizes)
        found = {
            **values,
            **{name: _point(estimate) for name, estimate in (*compared.items(), *ratios.items())},
            **sizes,
            **probed.metrics,
            "latency_ratio": probed.ratio,
        }
        return {
            name: float(value)
            for name, value in found.items()
            if value is not None and not math.isnan(value)
        }

    def _measured(self, file: Path) -> Probed:
        try:
            return self._once(file)
        except NotMeasuredError:
            if not self._probe.reached():
                raise
        # The target is there. Was it the connection, or does this model bring the target down?
        try:
            return self._once(file)
        except NotMeasuredError as error:
            if not self._probe.reached():
                raise
            raise BuildError(f"it cannot be measured: {error.line()}") from error

    def _once(self, file: Path) -> Probed:
        _, found = self._probe.measure(self._base, {"candidate": file}, self._inputs)
        return found["candidate"]

    def _outputs(self, answers: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Outputs:
        return Outputs(answers, self._labels, self._probabilities)


def _of_file(file: Path) -> dict[str, float | None]:
    """Size in bytes, as it is and compressed, and what the weights hold."""
    if file.suffix == ".pt2":
        from edgebench.exporters.pt2_from_torch import count_pt2_parameters

        parameters, zeros = count_pt2_parameters(file)
    else:
        parameters, zeros = count_parameters(read_onnx(file))
    return {
        "size_bytes": float(file.stat().st_size),
        "compressed_bytes": float(compressed_size(file)),
        "parameters": float(parameters),
        "sparsity": zeros / parameters if parameters else 0.0,
    }


def _point(estimate: Estimate) -> float | None:
    if estimate.point is None and estimate.method.startswith("identical"):
        return math.inf
    return estimate.point
