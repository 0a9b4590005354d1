"""Unstructured magnitude pruning: the smallest weights become zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from edgebench.errors import BuildError
from edgebench.records import Figure
from edgebench.techniques.base import TECHNIQUES, Context, Options, Outcome, TorchTechnique
from edgebench.techniques.finetune import Finetune, finetune
from edgebench.techniques.layer_names import LayerNames, check_apart
from edgebench.training.loop import OnUpdate, updates_an_epoch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgebench.pruning.masks import ZeroMasks

# At which each layer alone is tried; finer where accuracy falls.
SENSITIVITY_RATIOS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class PruneUnstructuredOptions(Options):
    """Options of `prune-unstructured`."""

    ratio: float | None = Field(
        None, gt=0, lt=1, description="share of the weights that become zero; or give 'pattern'"
    )
    pattern: str | None = Field(
        None,
        description="N:M, e.g. '2:4', in quotes: of M weights along the input channels the N "
        "largest stay; M is 2, 4, 8 or 16",
    )
    importance: Literal["l1", "l2"] = Field(
        "l1",
        description="norm that ranks the weights; single weights rank alike by both, unless "
        "'normalize' divides by the layer's",
    )
    allocation: Literal["global", "layer", "sensitivity"] | None = Field(
        None,
        description="global (where none is given): one threshold for all layers; layer: the ratio "
        "in each; sensitivity: ratios at which each layer alone costs the same accuracy",
    )
    normalize: bool = Field(
        False, description="for global: compare magnitudes relative to their layer's mean norm"
    )
    scope: Literal["weights", "all_as_published"] = Field(
        "weights",
        description="weights of convolutions and dense layers, or all arrays with biases and "
        "running statistics, as the functional-perspective paper did",
    )
    schedule: Literal["one-shot", "iterative", "cubic"] = Field(
        "one-shot",
        description="one-shot: all before training on; iterative: the same share of what is left "
        "before each equal part of it; cubic: Zhu and Gupta's, over its first three quarters",
    )
    steps: int | None = Field(
        None,
        ge=2,
        le=100000,
        description="prunings of iterative and cubic; none: one an epoch of finetune, 2 at least",
    )
    layers: LayerNames | None = Field(
        None, min_length=1, description="only these layers or blocks, named as in the module"
    )
    exclude: LayerNames = Field(default_factory=list, description="not these layers or blocks")
    finetune: Finetune | None = Field(None, description="train on with the zeros kept")

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """The two numbers of the pattern."""
        if self.pattern is None:
            return None
        n, _, m = self.pattern.partition(":")
        return int(n), int(m)

    @property
    def prunings(self) -> int:
        """How often weights are pruned."""
        if self.schedule == "one-shot" or self.finetune is None:
            return 1
        return self.steps or max(2, self.finetune.epochs)

    @field_validator("pattern", mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            # YAML 1.1 has numbers to the base 60, for times of day.
            raise ValueError(  # noqa: TRY004 - pydantic words a ValueError, not a TypeError
                f"write N:M in quotes, e.g. '2:4': unquoted, YAML reads {given}"
            )
        return given

    @field_validator("pattern")
    @classmethod
    def _is_n_of_m(cls, given: str | None) -> str | None:
        if given is None:
            return None
        found = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", given)
        if found is None:
            raise ValueError(f"'{given}' is not of the form N:M, e.g. '2:4'")
        n, m = int(found[1]), int(found[2])
        if m not in {2, 4, 8, 16}:
            raise ValueError(f"in '{given}', M is not 2, 4, 8 or 16")
        if not 0 < n < m:
            raise ValueError(f"in '{given}', N is not from 1 to {m - 1}")
        return f"{n}:{m}"

    @model_validator(mode="after")
    def _fits_together(self) -> PruneUnstructuredOptions:
        problem = next((text for wrong, text in self._combinations() if wrong), None)
        if problem is not None:
            raise ValueError(problem)
        check_apart(self.layers, self.exclude)
        return self

    def _combinations(self) -> list[tuple[bool, str]]:
        """What makes no sense together: whether it is so here, and what to say."""
        neither = self.ratio is None and self.pattern is None
        gradual = self.schedule != "one-shot"
        published = self.scope == "all_as_published"
        return [
            (neither, "the step lacks 'ratio' (a share) or 'pattern' (e.g. '2:4')"),
            (
                self.ratio is not None and self.pattern is not None,
                "'pattern' says how many weights stay: give it or 'ratio', not both",
            ),
            (
                published and self.pattern is not None,
                "'scope: all_as_published' takes a ratio, no pattern",
            ),
            (
                published and (gradual or self.finetune is not None),
                "'scope: all_as_published' is one-shot without training on: leave out 'schedule' "
                "and 'finetune'",
            ),
            (
                published and (self.allocation not in {None, "global"} or self.normalize),
                "'scope: all_as_published' has one threshold for all arrays: leave out "
                "'allocation' and 'normalize'",
            ),
            (
                published and (self.layers is not None or bool(self.exclude)),
                "'scope: all_as_published' prunes all arrays: leave out 'layers' and 'exclude'",
            ),
            (
                self.pattern is not None and self.allocation is not None,
                "'pattern' fixes the share of every layer: leave out 'allocation'",
            ),
            (
                self.normalize and (self.pattern is not None or self.allocation in _BY_LAYER),
                "'normalize' makes layers comparable, which only 'allocation: global' does",
            ),
            (
                self.pattern is not None and gradual,
                "'pattern' is one-shot: leave out 'schedule'",
            ),
            (
                gradual and self.finetune is None,
                f"'schedule: {self.schedule}' prunes while training on: add 'finetune'",
            ),
            (
                self.steps is not None and not gradual,
                "'steps' needs 'schedule: iterative' or 'schedule: cubic'",
            ),
        ]


_BY_LAYER = {"layer", "sensitivity"}


@TECHNIQUES.register("prune-unstructured")
class PruneUnstructured(TorchTechnique):
    """Set the weights of smallest magnitude to zero, biases and normalisation left alone.

    A dense file with zeros compresses better and, on runtimes without sparse kernels, runs no
    faster. Weights that were zero before stay zero, in the layers left out as well. Sources: Han
    et al., NeurIPS 2015; Zhu and Gupta, 2017; Mishra et al., arXiv 2104.08378 (N:M).

    `scope: all_as_published` repeats "Neural Network Compression, the Functional Perspective": one
    threshold over all arrays, the running statistics of batch normalisation among them, one shot,
    no training on. It ruins MobileNet by the running variances: one that becomes zero leaves √ε to
    divide by, which in torch multiplies its channel by up to 1/√ε ≈ 316, and each of the 27
    normalisations feeds the next. With the variances alone put back, most of the accuracy returns.
    LeNet has none to lose.
    """

    name = "prune-unstructured"
    summary = "the smallest weights become zero (by share or N:M, at once or while training on)"
    Options: ClassVar[type[Options]] = PruneUnstructuredOptions

    def undone_by(self, options: Any, later: str, later_options: Any) -> str | None:
        """What leaves no zeros, not in their pattern, or not those of all arrays."""
        if later == "low-rank":
            return "factors have no zeros"
        if later == "prune-structured" and options.n_of_m is not None:
            return f"its groups of {options.n_of_m[1]} input channels fall apart when channels go"
        if options.scope == "all_as_published" and _trains(later_options):
            return "training on keeps the zeros of weights, not of biases and running statistics"
        return None

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Prune in place; the achieved share is checked, not assumed."""
        from edgebench.pruning.gradual import GradualPruning
        from edgebench.pruning.magnitude import share_of_zeros
        from edgebench.pruning.masks import ZeroMasks
        from edgebench.pruning.n_of_m import about_groups, check_groups, n_of_m_masks
        from edgebench.pruning.selection import (
            chosen_weights,
            prunable_weights,
            transposed_weights,
        )

        if options.scope == "all_as_published":
            return module.eval(), _prune_all_arrays(module, options.ratio)
        weights = chosen_weights(module, options.layers, options.exclude)
        others = {
            name: weight.parameter
            for name, weight in prunable_weights(module).items()
            # An earlier pruning may have left zeros in layers this one leaves out.
            if name not in weights
            and weight.parameter is not None
            and bool((weight.parameter == 0).any())
        }
        kept = ZeroMasks({**weights, **others})
        before = share_of_zeros(list(weights.values()))
        outcome = Outcome()
        if options.n_of_m is not None:
            n, m = options.n_of_m
            ids = transposed_weights(module)
            transposed = [name for name, weight in weights.items() if id(weight) in ids]
            straight = {name: w for name, w in weights.items() if name not in transposed}
            masks = n_of_m_masks(straight, kept.masks(), n, m)
            kept.hold(masks)
            kept.apply_to_weights()
            _train_on(module, kept, lambda *_: kept.apply_to_weights(), options, context)
            check_groups({name: weights[name] for name in masks}, n, m)
            outcome.notes += about_groups(masks, list(weights), transposed, n, m)
        else:
            ratios = _ratios(module, weights, options, context, outcome)
            pruning = GradualPruning(
                weights,
                kept,
                options.ratio,
                ratios,
                norm=options.importance if options.normalize else None,
                schedule=options.schedule,
                steps=options.prunings,
            )
            if options.finetune is not None:
                batches = updates_an_epoch(len(context.tensors()[1]), context.training.batch_size)
                pruning.check_room(batches * options.finetune.epochs)
            pruning.begin()
            _train_on(module, kept, pruning.on_update, options, context)
            # Half a weight a layer may be lost to rounding where each has a ratio of its own.
            _check_share(weights, options.ratio, slack=0 if ratios is None else len(weights) / 2)
        if before and share_of_zeros(list(weights.values())) == before:
            outcome.notes.append(f"nothing more was pruned: {before:.1%} were zero before")
        _describe(module, weights, outcome)
        return module.eval(), outcome

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """The shape does not change."""
        return module


def _trains(options: Any) -> bool:
    return isinstance(options, Finetune) or getattr(options, "finetune", None) is not None


def _prune_all_arrays(module: nn.Module, ratio: float) -> Outcome:
    from edgebench.pruning.all_arrays import prune_all_arrays

    found = prune_all_arrays(module, ratio)
    zeros, total = (sum(counts) for counts in zip(*found.values(), strict=True))
    if zeros < round(ratio * total):
        raise BuildError(f"pruning reached {zeros / total:.2%} zeros, not {ratio:.2%}")
    parts = ", ".join(f"{kind} {zero:,} of {count:,}" for kind, (zero, count) in found.items())
    note = f"{zeros / total:.1%} of the elements of all arrays are zero: {parts}"
    shares = {kind: zero / count for kind, (zero, count) in found.items()}
    return Outcome(notes=[note], figures=[_bars("Zeros by kind of array", "kind", shares)])


def _ratios(
    module: nn.Module,
    weights: Mapping[str, nn.Parameter],
    options: PruneUnstructuredOptions,
    context: Context,
    outcome: Outcome,
) -> dict[str, float] | None:
    """The ratio of each layer; None where one threshold for all decides."""
    assert options.ratio is not None  # noqa: S101 - the options saw to it
    if options.allocation == "layer":
        return dict.fromkeys(weights, options.ratio)
    if options.allocation != "sensitivity":
        return None
    from edgebench.pruning.magnitude import with_one_pruned
    from edgebench.pruning.sensitivity import (
        ratios_within_loss,
        sensitivity_curves,
        sensitivity_figure,
    )

    pruned = partial(with_one_pruned, module)
    curves = sensitivity_curves(list(weights), pruned, SENSITIVITY_RATIOS, context)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    ratios = ratios_within_loss(curves, sizes, options.ratio)
    outcome.figures.append(sensitivity_figure(curves, "Sensitivity to pruning each layer alone"))
    chosen = ", ".join(f"{name} {ratio:.1%}" for name, ratio in ratios.items())
    outcome.notes.append(
        f"ratios at which each layer alone costs the same accuracy on {context.decided_on()}: "
        f"{chosen}"
    )
    return ratios


def _train_on(
    module: nn.Module,
    kept: ZeroMasks,
    on_update: OnUpdate,
    options: PruneUnstructuredOptions,
    context: Context,
) -> None:
    if options.finetune is not None:
        finetune(
            module,
            options.finetune,
            context,
            technique=PruneUnstructured.name,
            on_update=on_update,
            beside=kept,
        )


def _check_share(weights: Mapping[str, torch.Tensor], ratio: float, *, slack: float) -> None:
    """Assert the share of zeros; more than were asked for were there before."""
    total = sum(w.numel() for w in weights.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    if not zeros:
        raise BuildError(
            f"a ratio of {ratio:g} is less than one of the {total:,} weights: nothing was pruned",
            hint="raise the ratio",
        )
    if zeros < round(ratio * total) - slack:
        raise BuildError(f"pruning reached {zeros / total:.2%} zeros where {ratio:.2%} was asked")


def _describe(module: nn.Module, weights: Mapping[str, torch.Tensor], outcome: Outcome) -> None:
    """Notes and the figure that say where the zeros are."""
    from edgebench.pruning.magnitude import share_of_zeros
    from edgebench.pruning.selection import left_dense, prunable_weights

    prunable = [w.parameter for w in prunable_weights(module).values() if w.parameter is not None]
    everywhere = f"{share_of_zeros(prunable):.1%} of the weights are zero"
    if len(weights) < len(prunable):
        chosen = share_of_zeros(list(weights.values()))
        everywhere += f", {chosen:.1%} in the layers chosen ({len(weights)} of {len(prunable)})"
    outcome.notes.insert(0, everywhere)
    shares = {name: share_of_zeros([weight]) for name, weight in weights.items()}
    emptied = [name for name, share in shares.items() if share == 1]
    if emptied:
        outcome.notes.append(f"no weight is left in {', '.join(emptied)}: nothing passes through")
    unknown = left_dense(module)
    if unknown:
        outcome.notes.append(
            f"left as they are, being of no convolution or dense layer: {', '.join(unknown)}"
        )
    outcome.figures.append(_bars("Zeros by layer", "layer", shares))


def _bars(title: str, x: str, shares: Mapping[str, float]) -> Figure:
    return Figure(
        title=title,
        x=x,
        y="share of zeros",
        kind="bar",
        series={name: ((0.0, share),) for name, share in shares.items()},
    )
