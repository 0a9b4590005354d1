"""Structured pruning: whole channels go, so that every runtime is faster (torch-pruning)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebench.errors import BuildError, one_line
from edgebench.techniques.base import (
    TECHNIQUES,
    Context,
    Options,
    Outcome,
    TorchTechnique,
    WeightLayer,
    weight_layers,
)
from edgebench.techniques.finetune import Finetune, finetune

if TYPE_CHECKING:
    import torch
    from torch import nn


class PruneStructuredOptions(Options):
    """Options of `prune-structured`."""

    ratio: float = Field(gt=0, lt=1, description="share of the channels of each layer that go")
    importance: Literal["l1", "l2"] = Field("l2", description="norm that ranks the channels")
    round_to: int | None = Field(None, ge=2, le=256, description="keep a multiple of so many")
    finetune: Finetune | None = Field(None, description="train on with fewer channels")


@TECHNIQUES.register("prune-structured")
class PruneStructured(TorchTechnique):
    """Remove the weakest channels of every layer but the last, with all that depends on them.

    Source: torch-pruning; Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """

    name = "prune-structured"
    summary = "whole channels go (torch-pruning, per layer, by their norm)"
    Options: ClassVar[type[Options]] = PruneStructuredOptions

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Prune, check that channels really went, and train on."""
        import torch_pruning as tp

        example = context.example()
        layers = weight_layers(module)
        head = _last_layer(module, example)
        before = sum(p.numel() for p in module.parameters())
        norm = 1 if options.importance == "l1" else 2
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Fresh mappings: the defaults are shared between calls, and changed by them.
                pruner = tp.BasePruner(
                    module,
                    example,
                    importance=tp.importance.MagnitudeImportance(p=norm),
                    global_pruning=False,
                    pruning_ratio=options.ratio,
                    ignored_layers=[head],
                    round_to=options.round_to,
                    in_channel_groups={},
                    out_channel_groups={},
                    num_heads={},
                )
                widths = _widths(layers)
                pruner.step()
        except Exception as error:
            raise BuildError(
                f"torch-pruning cannot prune this model: {type(error).__name__}: "
                f"{one_line(str(error), 200)}"
            ) from error
        _check(layers, widths, head, options)
        history = [
            [name, bool(out), [int(i) for i in indices]]
            for name, out, indices in pruner.DG.pruning_history()
        ]
        if options.finetune is not None:
            finetune(module, options.finetune, context, technique=self.name)
        after = sum(p.numel() for p in module.parameters())
        note = f"{before - after:,} of {before:,} parameters went ({1 - after / before:.1%})"
        return module.eval(), Outcome({"history": history}, [note])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """Take the same channels from a module of the same architecture."""
        import torch_pruning as tp

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(module, example_inputs=context.example())
            graph.load_pruning_history([tuple(entry) for entry in structure["history"]])
        return module.eval()


def _last_layer(module: nn.Module, example: torch.Tensor) -> WeightLayer:
    """The layer that runs last: its outputs are the classes, and must stay."""
    import torch

    ran: list[WeightLayer] = []
    hooks = [
        layer.register_forward_hook(lambda this, *_: ran.append(this))
        for _, layer in weight_layers(module)
    ]
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise BuildError("the model has no convolution or dense layer to prune")
    return ran[-1]


def _widths(layers: list[tuple[str, WeightLayer]]) -> dict[str, int]:
    return {name: int(layer.weight.shape[0]) for name, layer in layers}


def _check(
    layers: list[tuple[str, WeightLayer]], before: dict[str, int], head: WeightLayer, options: Any
) -> None:
    """torch-pruning can prune nothing and say nothing: count the channels that went."""
    inner = [name for name, layer in layers if layer is not head]
    if not inner:
        raise BuildError("the model has a single layer: there is no channel to prune")
    now = _widths(layers)
    gone = sum(before[name] - now[name] for name in inner)
    share = gone / sum(before[name] for name in inner)
    # Rounding, and layers tied together by additions, keep some channels; half is not rounding.
    if share < 0.5 * options.ratio:
        raise BuildError(
            f"torch-pruning removed {share:.1%} of the channels where {options.ratio:.0%} were "
            "asked for",
            hint="change ratio or round_to",
        )
