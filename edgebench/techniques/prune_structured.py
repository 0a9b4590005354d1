"""Structured pruning: whole channels go, so that every runtime is faster (torch-pruning)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgebench.data.splitting import stratified_part
from edgebench.errors import BuildError
from edgebench.pruning.layer_names import listed, resolved, within
from edgebench.techniques.base import (
    TECHNIQUES,
    Context,
    Options,
    Outcome,
    TorchTechnique,
    weight_layers,
)
from edgebench.techniques.finetune import Finetune, finetune
from edgebench.techniques.layer_names import LayerNames, check_apart

if TYPE_CHECKING:
    from torch import nn

    from edgebench.pruning.budget import Counts
    from edgebench.pruning.channels import Group


class PruneStructuredOptions(Options):
    """Options of `prune-structured`."""

    ratio: float | None = Field(
        gt=0, lt=1, description="share that goes, of what `of` says; null: heads alone go"
    )
    of: Literal["channels", "parameters", "macs", "latency"] = Field(
        "channels",
        description="what the ratio is a share of: for latency, of base's, measured on the target",
    )
    importance: Literal[
        "l1", "l2", "group-norm", "taylor", "hessian", "fpgm", "bn-scale", "lamp", "random"
    ] = Field("l2", description="what ranks the channels")
    allocation: Literal["local", "global", "sensitivity"] = Field(
        "local",
        description="the same share of each layer, one ranking of all, or by what each layer's "
        "pruning alone costs in accuracy",
    )
    round_to: Annotated[int, Field(ge=2, le=256)] | Literal["auto"] | None = Field(
        None,
        description="round the channels that stay down to a multiple; auto: of the target's "
        "vector width, where a layer keeps as many",
    )
    heads: float | None = Field(
        None, gt=0, lt=1, description="share of the attention heads that go; none: they get thinner"
    )
    layers: LayerNames | None = Field(
        None,
        min_length=1,
        description="prune these layers or blocks alone, and what is tied to them",
    )
    exclude: LayerNames = Field(
        default_factory=list, description="layers or blocks that keep their channels"
    )
    examples: int = Field(
        128, ge=1, le=100000, description="of training, for the gradients of taylor and hessian"
    )
    iterations: int = Field(
        1, ge=1, le=100, description="prune in so many equal steps, with training after each"
    )
    finetune: Finetune | None = Field(
        None, description="train on with fewer channels, its epochs shared among the iterations"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PruneStructuredOptions:
        if self.ratio is None and self.heads is None:
            raise ValueError("give a ratio, heads or both: nothing would be pruned")
        if self.ratio is None and (self.of != "channels" or self.allocation == "sensitivity"):
            raise ValueError("'of' and 'allocation: sensitivity' need a ratio")
        if self.heads is not None and self.importance == "bn-scale":
            raise ValueError("bn-scale cannot rank heads: no batch normalisation follows them")
        if self.iterations > 1 and self.finetune is None:
            raise ValueError("iterations train after each step: give finetune")
        if self.finetune is not None and self.finetune.epochs < self.iterations:
            raise ValueError(
                f"{self.iterations} iterations cannot share {self.finetune.epochs} epochs of "
                "finetune: one each at least"
            )
        check_apart(self.layers, self.exclude)
        return self


@TECHNIQUES.register("prune-structured")
class PruneStructured(TorchTechnique):
    """Remove the channels and attention heads worth least, with all that depends on them.

    Layers that feed the outputs keep theirs. Source: torch-pruning; Fang et al., "DepGraph: Towards
    Any Structural Pruning", CVPR 2023; of the criteria, see `pruning.importance`.
    """

    name = "prune-structured"
    summary = "whole channels and heads go, to a share of channels, MACs or measured latency"
    Options: ClassVar[type[Options]] = PruneStructuredOptions

    def measures(self, options: Any) -> bool:
        """Latencies are the target's own, and so is the width of its vectors."""
        return bool(options.of == "latency" or options.round_to == "auto")

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Decide how many channels of each layer go, take them out, and train on.

        How many is decided once; which, before each iteration anew.
        """
        from edgebench.pruning.budget import step_of
        from edgebench.pruning.channels import remove
        from edgebench.pruning.structured_plan import Plan

        if options.of == "latency" and context.latency_ratios is None:
            raise BuildError(
                "the target cannot be reached to measure on",
                where="of: latency",
                hint="reach it, or set of: macs",
            )
        example = context.examples()
        groups, notes = _rank(module, options, context)
        plan = Plan(module, groups, options, context)
        units, heads = plan.decide()
        steps = []
        for number in range(1, options.iterations + 1):
            if number > 1:
                groups, _ = _rank(module, options, context)
            parts = [_part(counts, number, options.iterations) for counts in (units, heads)]
            step = step_of(groups, *parts)
            remove(module, step, example)
            steps.append(step)
            if options.finetune is not None:
                _train_on(module, options, context, number)
        notes = [*plan.achieved(module), *notes, *plan.notes]
        return module.eval(), Outcome({"steps": steps}, notes, plan.figures)

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """Take the same channels and heads from a module of the same architecture."""
        from edgebench.pruning.channels import remove

        for step in structure["steps"]:
            remove(module, step, context.examples())
        return module.eval()


def _rank(module: nn.Module, options: Any, context: Context) -> tuple[list[Group], list[str]]:
    """The groups of channels that may go, ranked, and what there is to say about the others."""
    from edgebench.pruning.channels import find_groups
    from edgebench.pruning.importance import GRADIENTS, importance_of, prepared
    from edgebench.training.loop import deterministic

    names = [name for name, _ in weight_layers(module)]
    if not names:
        raise BuildError("the model has no convolution or dense layer to prune")
    chosen = resolved(options.layers or (), names, module)
    exclude = resolved(options.exclude, names, module)
    labelled = None
    if options.importance in GRADIENTS:
        if not context.labelled:
            raise BuildError(
                f"there are no labels for the gradients of {options.importance}",
                where="the data",
                hint="choose another importance, e.g. l2",
            )
        x, y = context.tensors()
        seed = context.seed_for("prune-structured/examples")
        rows = stratified_part(context.train_y, options.examples, seed, "the training data")
        labelled = x[rows.tolist()], y[rows.tolist()]
    with deterministic(context.seed_for("prune-structured/importance")):
        copy = prepared(options.importance, module, labelled, probabilities=context.probabilities)
        found = find_groups(
            copy,
            context.examples(),
            importance_of(options.importance),
            _wanted(module, chosen, exclude, every=options.ratio is not None),
        )
    if not found and not options.heads:
        spared = ", and so do those that 'layers' and 'exclude' spare"
        raise BuildError(
            "there is no channel to prune: the layers that give the answer keep theirs"
            + (spared if options.layers or options.exclude else "")
        )
    groups = [group for group in found if group.worth is not None]
    if found and not groups:
        raise BuildError(
            f"{options.importance} cannot rank any layer: no batch normalisation follows them",
            hint="choose another importance, e.g. l2",
        )
    notes = []
    if unranked := [group.name for group in found if group.worth is None]:
        notes.append(
            "without a batch normalisation to be ranked by, these keep their channels: "
            + listed(unranked)
        )
    if chosen:
        layers = [layer for group in groups for layer in group.layers]
        if tied := [layer for layer in layers if not within(layer, chosen)]:
            notes.append(f"tied to the layers chosen, and pruned with them: {listed(tied)}")
    if options.heads:
        notes += _check_heads(module, groups)
    return groups, notes


def _wanted(
    module: nn.Module, chosen: Sequence[str], exclude: Sequence[str], *, every: bool
) -> Callable[[Sequence[str]], bool]:
    """Whether a group of layers may be touched: any where `every`, else those with heads alone."""
    from edgebench.pruning.heads import attention_modules

    inputs = {id(qkv) for qkv, _, _ in attention_modules(module).values()}
    # With heads alone to go, whatever else the model holds need not be followed.
    open_to = {name for name, layer in weight_layers(module) if every or id(layer) in inputs}

    def wanted(layers: Sequence[str]) -> bool:
        named = not chosen or any(within(layer, chosen) for layer in layers)
        spared = any(within(layer, exclude) for layer in layers)
        return named and not spared and any(layer in open_to for layer in layers)

    return wanted


def _check_heads(module: nn.Module, groups: Sequence[Group]) -> list[str]:
    """Notes on heads that must stay; raises BuildError where all of them must."""
    from edgebench.pruning.heads import built_in_attentions

    fixed = built_in_attentions(module)
    why = "torch's own MultiheadAttention ties its heads to its embedding"
    if not any(group.attention for group in groups):
        raise BuildError(
            f"the heads of {listed(fixed)} cannot go: {why}"
            if fixed
            else "there is no attention whose heads could go",
            hint="an attention has a dense layer qkv, num_heads and head_dim",
        )
    return [f"all heads stay in {listed(fixed)}: {why}"] if fixed else []


def _part(counts: Counts, number: int, iterations: int) -> Counts:
    """What goes in the iteration of a number, of all that goes."""
    return {
        name: count * number // iterations - count * (number - 1) // iterations
        for name, count in counts.items()
    }


def _train_on(module: nn.Module, options: Any, context: Context, number: int) -> None:
    """The iteration's share of the epochs; the last ones get what does not divide."""
    settings, iterations = options.finetune, options.iterations
    epochs = _part({"": settings.epochs}, number, iterations)[""]
    finetune(
        module,
        settings.model_copy(update={"epochs": epochs}),
        context,
        technique="prune-structured" if iterations == 1 else f"prune-structured-{number}",
    )
