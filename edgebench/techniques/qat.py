"""Quantization-aware training: the network learns on the integer grid it will run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebench.errors import BuildError
from edgebench.techniques.base import (
    TECHNIQUES,
    Context,
    Options,
    Outcome,
    TorchTechnique,
)
from edgebench.techniques.finetune import Finetune, finetune

if TYPE_CHECKING:
    from torch import nn

CALIBRATION_EXAMPLES = 512


class QatOptions(Finetune):
    """Options of `qat`."""

    bits: Literal[8] = Field(8, description="bits of weights and activations")


@TECHNIQUES.register("qat")
class Qat(TorchTechnique):
    """Train on with weights and activations rounded to the target's int8 grid.

    Batch normalisation is folded first; weights have one scale a channel, activations one scale a
    tensor that follows the batches. Exported as QDQ, in the format the target asks for.
    """

    name = "qat"
    summary = "int8 quantization-aware training in the target's format"
    Options: ClassVar[type[Options]] = QatOptions
    last = "its ranges hold only for the weights it was trained with"
    for_target = True

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Trace, calibrate the ranges on training data, and train on."""
        import torch

        from edgebench.quantization.fake_quant import ActivationQuantizer

        if "int8" not in context.precisions:
            raise BuildError("the target runs no int8", hint="see 'precisions' in its file")
        quantized = self.restructure(module, options, {}, context)
        x, _ = context.tensors()
        # The ranges alone learn here: dropout would draw, and stand in the way.
        quantized.eval()
        for place in quantized.modules():
            if isinstance(place, ActivationQuantizer):
                place.train()
        with torch.no_grad():
            for part in torch.split(x[:: max(1, len(x) // CALIBRATION_EXAMPLES)], 64):
                quantized(part)
        finetune(quantized, options, context, technique=self.name)
        return quantized, Outcome(notes=[f"int8 format {context.int8}"])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """The module with quantizers inserted."""
        from edgebench.quantization.fake_quant import GRIDS
        from edgebench.quantization.quantized_graph import quantized_graph

        return quantized_graph(module, GRIDS[context.int8])
