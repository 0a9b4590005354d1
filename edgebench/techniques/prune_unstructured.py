"""Unstructured magnitude pruning: the smallest weights become zero."""

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
    weight_layers,
)
from edgebench.techniques.finetune import Finetune, finetune

if TYPE_CHECKING:
    import torch
    from torch import nn


class PruneUnstructuredOptions(Options):
    """Options of `prune-unstructured`."""

    ratio: float = Field(gt=0, lt=1, description="share of the weights that become zero")
    scope: Literal["global", "layer"] = Field(
        "global", description="one threshold for all layers, or one for each"
    )
    finetune: Finetune | None = Field(None, description="train on with the zeros kept")


@TECHNIQUES.register("prune-unstructured")
class PruneUnstructured(TorchTechnique):
    """Set the weights of smallest magnitude to zero, biases and normalisation left alone.

    Source: Han et al., NeurIPS 2015; one-shot unless fine-tuned.
    """

    name = "prune-unstructured"
    summary = "the smallest weights become zero (magnitude, global or per layer)"
    Options: ClassVar[type[Options]] = PruneUnstructuredOptions

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Prune in place; the achieved share is checked, not assumed."""
        import torch

        weights = [layer.weight for _, layer in weight_layers(module)]
        if not weights:
            raise BuildError("the model has no convolution or dense layer to prune")
        magnitudes = [w.detach().abs().flatten() for w in weights]
        groups = [torch.cat(magnitudes)] if options.scope == "global" else magnitudes
        masks = []
        with torch.no_grad():
            for weight, own in zip(weights, magnitudes, strict=True):
                pool = groups[0] if options.scope == "global" else own
                count = round(options.ratio * pool.numel())
                # kthvalue and not quantile: that one refuses more than 16 million values.
                limit = pool.kthvalue(count).values if count else pool.new_tensor(-1.0)
                mask = weight.abs() <= limit
                # Not a product with the mask: −0.0 has a bit set, and costs when compressed.
                weight.masked_fill_(mask, 0.0)
                masks.append(mask)
        _check(weights, options.ratio)
        if options.finetune is not None:

            def keep_zeros(*_: int) -> None:
                with torch.no_grad():
                    for weight, mask in zip(weights, masks, strict=True):
                        weight.masked_fill_(mask, 0.0)

            finetune(
                module,
                options.finetune,
                context,
                technique=self.name,
                on_update=keep_zeros,
            )
        achieved = _check(weights, options.ratio)
        return module.eval(), Outcome(notes=[f"{achieved:.1%} of the weights are zero"])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """The shape does not change."""
        return module


def _check(weights: list[torch.Tensor], wanted: float) -> float:
    total = sum(w.numel() for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    achieved = zeros / total
    # One weight a layer may be lost to rounding; more zeros than asked for were there before.
    if achieved < wanted - (len(weights) + 1) / total:
        raise BuildError(f"pruning reached {achieved:.2%} zeros where {wanted:.0%} were asked for")
    return achieved
