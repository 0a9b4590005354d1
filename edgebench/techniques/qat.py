"""Quantization-aware training: the network learns on the grid of numbers it will run on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgebench.errors import BuildError, nearest
from edgebench.techniques.base import (
    TECHNIQUES,
    Context,
    Options,
    Outcome,
    TorchTechnique,
    weight_layers,
)
from edgebench.techniques.finetune import Finetune, finetune

if TYPE_CHECKING:
    from torch import nn

    from edgebench.quantization.fake_quant import Rounding

CALIBRATION_EXAMPLES = 512
CALIBRATION_BATCH = 64
HALF = ("fp16", "bf16")
BITS = {8: "int8", 4: "int4"}
# Of the answers' spread: folding batch normalisation changes rounding alone.
FOLDING_TOLERANCE = 1e-2


class QatOptions(Finetune):
    """Options of `qat`. `bits: 8` and `bits: 4` are other words for `dtype: int8` and `int4`."""

    dtype: Literal["int8", "int4", "fp16", "bf16"] = Field("int8", description="of the weights")
    activations: Literal["int8", "half", "float"] = Field(
        "int8",
        description="int8, or float to round weights alone; with fp16 and bf16: half (their "
        "default; rounded while training, the file computes in float32 anywhere) or float",
    )
    ranges: Literal["moving-average", "learned"] = Field(
        "moving-average",
        description="step sizes follow the values (weights: their largest), or are trained (LSQ)",
    )
    per_channel: bool = Field(
        True, description="one scale for each output channel of a weight, else one for a layer"
    )
    exclude: list[str] = Field(default_factory=list, description="layers that stay in float")
    control: bool = Field(
        True, description="measure beside it the same network trained on as long in float32"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_one_word(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "bits" in values:
            bits = values.pop("bits")
            if not isinstance(bits, int) or bits not in BITS:
                raise ValueError(
                    f"bits must be 8 or 4, not {bits!r}; 'dtype: fp16' or 'bf16' for 16"
                )
            if values.setdefault("dtype", BITS[bits]) != BITS[bits]:
                raise ValueError(f"bits: {bits} contradicts dtype: {values['dtype']}")
        if values.get("dtype") in HALF:
            values.setdefault("activations", "half")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> QatOptions:
        if self.dtype in HALF:
            if self.activations == "int8":
                raise ValueError(f"with dtype {self.dtype} activations are half or float")
            if self.ranges == "learned":
                raise ValueError(f"{self.dtype} has no ranges to learn")
            if not self.per_channel:
                raise ValueError(f"{self.dtype} has no scales: leave per_channel out")
        elif self.activations == "half":
            raise ValueError(f"with dtype {self.dtype} activations are int8 or float")
        return self


@TECHNIQUES.register("qat")
class Qat(TorchTechnique):
    """Train on with weights and activations rounded to the numbers the target computes with.

    Batch normalisation is folded first. int8 and int4 are exported as QDQ, in the format the target
    asks for; the weights of fp16 and bf16 in half precision, cast to float32.
    """

    name = "qat"
    summary = "quantization-aware training: int8, int4, fp16 or bf16"
    Options: ClassVar[type[Options]] = QatOptions
    for_target = True

    def closed_by(self, options: Any) -> str:
        """Whatever would follow would not work on the rounded weights."""
        if options.dtype in HALF:
            return f"its weights were trained for {options.dtype} and are stored in it"
        return "its ranges hold only for the weights it was trained with"

    def reference_text(self, options: Any) -> str | None:
        """What the same training without rounding gives."""
        return "trained on as long in float32, without rounding" if options.control else None

    def reference(self, module: nn.Module, options: Any, context: Context) -> nn.Module:
        """Train `module` as `apply` trains the rounded one: same epochs, rate, order and loss."""
        scratch = context.scratch / "control" if context.scratch is not None else None
        finetune(
            module,
            options,
            replace(context, scratch=scratch),
            technique=self.name,
            what="the float32 control of qat",
        )
        return module

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Trace, calibrate the ranges on training data, and train on."""
        if options.activations == "int8" and "int8" not in context.precisions:
            raise BuildError("the target runs no int8", hint="see 'precisions' in its file")
        _check_excluded(module, options.exclude)
        if options.dtype in HALF:
            rounded, notes = self._in_half(module, options, context)
        else:
            rounded, notes = self._on_integers(module, options, context)
        if context.check_export is not None:
            # An operator set without 4-bit tensors, say: told of in seconds, not after training.
            context.check_export(rounded)
        finetune(rounded, options, context, technique=self.name)
        return rounded, Outcome(notes=notes)

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """The module with quantizers inserted."""
        if options.dtype in HALF:
            return _half_network(module, options)[0]

        from edgebench.quantization.fake_quant import GRIDS
        from edgebench.quantization.quantized_graph import quantized_graph

        return quantized_graph(module, GRIDS[context.int8], _rounding(options), options.exclude)

    def _on_integers(
        self, module: nn.Module, options: Any, context: Context
    ) -> tuple[nn.Module, list[str]]:
        import torch

        from edgebench.quantization.fake_quant import GRIDS, calibrate, quantized_layers
        from edgebench.quantization.quantized_graph import left_in_float, quantized_graph

        _check_folding(module, context)
        grid, rounding = GRIDS[context.int8], _rounding(options)
        quantized = quantized_graph(module, grid, rounding, options.exclude)
        x, _ = context.tensors(self.name)
        some = x[:: max(1, len(x) // CALIBRATION_EXAMPLES)]
        calibrate(quantized, torch.split(some, CALIBRATION_BATCH))
        count = len(quantized_layers(quantized))
        limit = rounding.weight_limit(grid)
        scales = "one scale a channel" if options.per_channel else "one scale a layer"
        inputs = f"int8 in the format {context.int8}" if rounding.activations else "float"
        notes = [
            f"{count} layers with {options.dtype} weights in ±{limit}, {scales}; "
            f"activations {inputs}",
            *left_in_float(quantized, options.exclude),
        ]
        return quantized, notes

    def _in_half(
        self, module: nn.Module, options: Any, context: Context
    ) -> tuple[nn.Module, list[str]]:
        _check_folding(module, context)
        rounded, count = _half_network(module, options)
        notes = [
            f"{count} parameters rounded to {options.dtype}; the file computes in float32 anywhere"
        ]
        if options.dtype not in context.precisions:
            notes.append(
                f"the target's 'precisions' do not name {options.dtype}: its runtime has to read "
                "the stored weights all the same"
            )
        if options.activations == "half":
            notes.append(f"while training, activations were rounded to {options.dtype} as well")
        return rounded, notes


def _rounding(options: Any) -> Rounding:
    from edgebench.quantization.fake_quant import Rounding

    return Rounding(
        weight_bits=4 if options.dtype == "int4" else 8,
        activations=options.activations == "int8",
        learned=options.ranges == "learned",
        per_channel=options.per_channel,
    )


def _half_network(module: nn.Module, options: Any) -> tuple[nn.Module, int]:
    """The module with batch normalisation folded and parameters rounded, and how many of them."""
    from edgebench.quantization.half_precision import round_to_half

    rounded = _folded(module)
    count = round_to_half(
        rounded,
        options.dtype,
        activations=options.activations == "half",
        exclude=options.exclude,
    )
    if not count:
        raise BuildError("the model has no parameter to round that is not excluded")
    return rounded.eval(), count


def _folded(module: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded; where there is none, nothing has to be traced."""
    from copy import deepcopy

    from torch.nn.modules.batchnorm import _BatchNorm

    from edgebench.quantization.quantized_graph import folded_graph

    if any(isinstance(part, _BatchNorm) for part in module.modules()):
        return folded_graph(module)
    return deepcopy(module)


def _check_folding(module: nn.Module, context: Context) -> None:
    """Raise BuildError where folding changes the function, as it does for shared convolutions."""
    import numpy as np

    from edgebench.training.loop import predict

    example = context.example(32)
    before, after = (predict(m, example).numpy() for m in (module, _folded(module)))
    if np.abs(before - after).max() > FOLDING_TOLERANCE * (float(before.std()) or 1.0):
        raise BuildError(
            "folding batch normalisation changes the model's answers",
            hint="a convolution that is used twice needs a copy for each use",
        )


def _check_excluded(module: nn.Module, names: list[str]) -> None:
    known = [name for name, _ in weight_layers(module)]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise BuildError(
                f"the model has no layer '{name}' to exclude",
                hint=f"did you mean '{near}'?" if near else f"it has: {', '.join(known)}",
            )
