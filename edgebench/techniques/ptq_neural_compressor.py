"""Post-training quantization with Intel Neural Compressor, where that package is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgebench.errors import BuildError, one_line
from edgebench.techniques.base import TECHNIQUES, Context, Options, Outcome, TorchTechnique

if TYPE_CHECKING:
    from torch import fx, nn

    from edgebench.quantization.fake_quant import Grid

PACKAGE = "neural-compressor-pt"
# Its moving averages follow later batches by a hundredth: as many examples as can count alike.
BATCH = 256
EXAMPLES = 256


class PtqNeuralCompressorOptions(Options):
    """Options of `ptq-neural-compressor`."""

    bits: Literal[8, 4] = Field(8, description="bits of the weights; 4 with weight_only alone")
    weight_only: bool = Field(
        False, description="round the weights of dense layers to nearest, and nothing else"
    )
    calibration: Literal["minmax", "kl"] = Field(
        "minmax",
        description="how activation ranges are found: the extremes, or a histogram's best range",
    )
    examples: int = Field(
        EXAMPLES, ge=1, le=100000, description="training examples to calibrate on"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PtqNeuralCompressorOptions:
        if self.bits == 4 and not self.weight_only:
            raise ValueError("4 bits need 'weight_only: true': activations have 8 alone")
        if self.weight_only and (self.calibration != "minmax" or self.examples != EXAMPLES):
            raise ValueError("weight_only needs no calibration: leave calibration and examples out")
        return self


@TECHNIQUES.register("ptq-neural-compressor")
class PtqNeuralCompressor(TorchTechnique):
    """Let neural-compressor choose what is quantized and find the ranges, in the target's format.

    Static: its PT2E quantizer folds normalisation, places the observers and finds the activations'
    ranges. The arithmetic is edgebench's: weights are rounded here, one scale a channel, since that
    package knows no seven bits, and where it leaves a layer before an addition in float (as
    PyTorch's own compiler wants it), an observer of the same kind is added, so that ONNX Runtime
    has integers there. With `weight_only` the rounding is the package's own (RTN, one symmetric
    scale an output channel of a dense layer); such weights are widened where they are used.
    Source: github.com/intel/neural-compressor, release 3.10.
    """

    name = "ptq-neural-compressor"
    summary = "static int8 or rounded weights by Intel Neural Compressor (an extra)"
    Options: ClassVar[type[Options]] = PtqNeuralCompressorOptions
    last = "its ranges hold only for the weights it saw"
    for_target = True

    def check(self, options: Any) -> None:
        """Raise BuildError where the package is not installed."""
        missing = [
            name
            for name in ("neural_compressor", "torchao", "accelerate")
            if importlib.util.find_spec(name) is None
        ]
        if missing:
            raise BuildError(
                f"'{self.name}' needs the package {PACKAGE} (there is no module '{missing[0]}')",
                hint="pip install 'edgebench[neural-compressor]', on Python 3.11 or newer",
            )

    def identity(self, options: Any) -> dict[str, Any]:
        """The versions of what finds the ranges."""
        return {name: _version(name) for name in (PACKAGE, "torchao")}

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Prepare, calibrate and round."""
        from edgebench.quantization.fake_quant import quantized_layers

        self.check(options)
        if options.weight_only:
            made = self._weight_only(module, options, rounded=True)
            count = len(quantized_layers(made))
            note = (
                f"the weights of {count} dense layers rounded to {options.bits} bits by "
                f"{PACKAGE} {_version(PACKAGE)}"
            )
            return made, Outcome(notes=[note])
        from edgebench.techniques.ptq import calibration_examples

        if "int8" not in context.precisions:
            raise BuildError("the target runs no int8", hint="see 'precisions' in its file")
        chosen = calibration_examples(context, options.examples)
        made = self._static(module, options, context, chosen)
        notes = [
            f"ranges by {PACKAGE} {_version(PACKAGE)} on {len(chosen)} training examples, int8 "
            f"format {context.int8}",
            f"{len(quantized_layers(made))} convolutions and dense layers have int8 weights",
        ]
        return made, Outcome(notes=notes)

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """The same graph, prepared again; ranges and weights are still to be loaded."""
        self.check(options)
        if options.weight_only:
            return self._weight_only(module, options, rounded=False)
        return self._static(module, options, context, None)

    def _static(
        self, module: nn.Module, options: Any, context: Context, chosen: Any
    ) -> fx.GraphModule:
        """The quantized graph, its ranges from the examples `chosen` where there are some."""
        import torch

        from edgebench.quantization.fake_quant import GRIDS
        from edgebench.quantization.observed_graph import observe_layers, on_grid
        from edgebench.training.loop import deterministic

        grid = GRIDS[context.int8]
        # It draws from torch's generator while it traces, whatever is asked of it.
        with deterministic(context.seed_for(self.name)), _quiet():
            try:
                prepared = _prepared(deepcopy(module).eval(), context, options, grid)
            except Exception as error:
                raise BuildError(
                    f"{PACKAGE} cannot prepare this model: {_reason(module, context, error)}",
                    hint="torch.export must be able to trace it; try ptq",
                ) from error
            observe_layers(prepared)
            if chosen is not None:
                with torch.no_grad():
                    for batch in torch.split(torch.from_numpy(chosen), BATCH):
                        prepared(batch)
            return on_grid(prepared, grid, calibrated=chosen is not None)

    def _weight_only(self, module: nn.Module, options: Any, *, rounded: bool) -> nn.Module:
        """The module with its dense layers' weights on the grid, rounded by RTN or as they are."""
        from torch import nn

        from edgebench.quantization.fake_quant import GRIDS, QuantizedLinear, Rounding

        result = deepcopy(module).eval()
        names = [name for name, part in result.named_modules() if type(part) is nn.Linear]
        if not names:
            raise BuildError(
                f"the model has no dense layer, and {PACKAGE} rounds the weights of no other",
                hint="leave weight_only out",
            )
        if rounded:
            _round_to_nearest(result, options.bits)
        rounding = Rounding(weight_bits=options.bits, activations=False)
        for name in names:
            layer = result.get_submodule(name)
            assert isinstance(layer, nn.Linear)  # noqa: S101 - chosen so
            # Products in float do not saturate: all eight bits, whatever the target.
            result.set_submodule(name, QuantizedLinear(layer, GRIDS["s8s8"], rounding))
        return result


def _prepared(module: nn.Module, context: Context, options: Any, grid: Grid) -> fx.GraphModule:
    """The traced module with neural-compressor's observers."""
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import INT8StaticQuantConfig, prepare

    shapes = ({0: torch.export.Dim("N")},)
    traced = export(module, (context.example(),), dynamic_shapes=shapes)
    config = INT8StaticQuantConfig(
        act_dtype="uint8" if grid.dtype == torch.uint8 else "int8",
        act_sym=grid.symmetric,
        act_algo=options.calibration,
    )
    found: fx.GraphModule = prepare(traced, quant_config=config)
    return found


def _reason(module: nn.Module, context: Context, error: Exception) -> str:
    """Why a model cannot be prepared: what torch.export says, which neural-compressor only logs."""
    import torch

    try:
        shapes = ({0: torch.export.Dim("N")},)
        torch.export.export(module, (context.example(),), dynamic_shapes=shapes)
    except Exception as cause:
        error = cause
    return one_line(f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}", 200)


def _round_to_nearest(module: nn.Module, bits: int) -> None:
    """Round the weights of the dense layers in place, by neural-compressor's RTN."""
    import torch

    with _quiet():
        from neural_compressor.torch.quantization import RTNConfig, convert, prepare

        config = RTNConfig(
            bits=bits, use_sym=True, group_size=-1, use_layer_wise=False, quant_lm_head=True
        )
        try:
            packed = convert(prepare(deepcopy(module), config))
            layers = {
                name: part for name, part in packed.named_modules() if hasattr(part, "unpack")
            }
            for name, part in layers.items():
                with torch.no_grad():
                    module.get_submodule(name).weight.copy_(part.recover())  # type: ignore[operator]
        except Exception as error:
            raise BuildError(
                f"{PACKAGE} cannot round this model's weights: {type(error).__name__}: "
                f"{one_line(str(error), 200)}"
            ) from error
    left = [n for n, p in module.named_modules() if type(p) is torch.nn.Linear and n not in layers]
    if left:
        raise BuildError(f"{PACKAGE} left the weights of '{left[0]}' as they were")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what neural-compressor and torch.export say off the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
