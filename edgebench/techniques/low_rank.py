"""Low-rank factorization: one layer becomes a chain of two or three that cost less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator

from edgebench.errors import BuildError
from edgebench.models.costs import costs
from edgebench.pruning.layer_names import listed, resolved, within
from edgebench.records import Figure
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

    from edgebench.factorization.base import Factorization, Ranks

DEFAULT_ENERGY = 0.9
# Of a curve in the report: more points than a line can show are left out.
MOST_POINTS = 64
# What a model does with a layer that no chain can stand in for.
READ = "reads weights or sizes"


class LowRankOptions(Options):
    """Options of `low-rank`."""

    energy: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="least share of each layer's squared weights that is kept; "
        f"none, and no ratio: {DEFAULT_ENERGY}",
    )
    ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="in place of energy: share of the multiply-accumulates that go",
    )
    conv: Literal["tucker", "cp", "svd", "spatial", "none"] = Field(
        "tucker",
        description="convolutions: 1x1, core, 1x1; 1x1, depthwise, 1x1; k x k, 1x1; k x 1, 1 x k",
    )
    dense: Literal["svd", "none"] = Field("svd", description="dense layers: two of a lower rank")
    round_to: int | Literal["auto"] | None = Field(
        None, description="ranks are multiples of so many; auto: the target's vector width"
    )
    layers: LayerNames | None = Field(
        None, min_length=1, description="only these layers or blocks; none: all that can be"
    )
    exclude: LayerNames = Field(default_factory=list, description="not these layers or blocks")
    finetune: Finetune | None = Field(None, description="train on with the factors")

    @field_validator("round_to")
    @classmethod
    def _in_range(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 2 <= value <= 256:
            raise ValueError("round_to must be 'auto' or a number from 2 to 256")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> LowRankOptions:
        if self.energy is not None and self.ratio is not None:
            raise ValueError("give energy or ratio, not both: each of them sets the ranks")
        if self.conv == "none" and self.dense == "none":
            raise ValueError("conv and dense are both 'none': there is nothing to factorize")
        check_apart(self.layers, self.exclude)
        return self


@TECHNIQUES.register("low-rank")
class LowRank(TorchTechnique):
    """Replace dense layers and convolutions by chains of smaller ones, where these cost less.

    Dense layers and 1×1 convolutions: truncated SVD. Other convolutions: Tucker-2 (Kim et al.,
    2016), CP with both spatial modes together (after Lebedev et al., 2015), SVD over channels
    (Zhang et al., 2016) or over rows and columns (Jaderberg et al., 2014). Grouped and depthwise
    convolutions stay. Ranks follow from one energy: each layer keeps at least that share of its
    squared weights. With `ratio`, it is the largest energy at which so many of the network's
    multiply-accumulates go.
    """

    name = "low-rank"
    summary = "dense layers and convolutions become chains of low rank (SVD, Tucker, CP)"
    Options: ClassVar[type[Options]] = LowRankOptions

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Choose the ranks, replace the layers, check what they cost, and train on."""
        from edgebench.factorization.layers import empty_layers, filled, replace
        from edgebench.factorization.ranks import ranks_for_energy, ranks_for_saving

        example = context.examples()
        layers = len(weight_layers(module))
        found, spared = self._factorizations(module, options, context)
        before = costs(module, example)
        macs = before["macs"]
        step = context.vector_width if options.round_to == "auto" else options.round_to or 1
        if options.ratio is None:
            energy = options.energy if options.energy is not None else DEFAULT_ENERGY
            chosen = ranks_for_energy(found, energy, step)
        else:
            # Rounded up: not one operation less than was asked for.
            goal = int(-(-options.ratio * macs // 1))
            chosen, energy = ranks_for_saving(found, goal, step)
            _check_reach(found, chosen, goal, macs, options)
        if not chosen:
            raise BuildError(
                f"no layer is cheaper in factors that keep {energy:.4g} of its squared weights",
                hint="lower energy or round_to",
            )
        lost = weight = 0.0
        for name, ranks in chosen.items():
            old = found[name]
            factors = old.factors(ranks)
            lost += float((old.weight - old.composed(factors)).norm()) ** 2
            weight += float(old.weight.norm()) ** 2
            new = empty_layers(old.layer, old.kind, ranks)
            replace(module, old.layer, filled(new, factors, old.layer))
        after = costs(module, example)
        _check_achieved(macs, after["macs"], options)
        notes = [
            f"{len(chosen)} of {layers} layers became chains that keep at "
            f"least {energy:.2%} of their squared weights; {len(found) - len(chosen)} cost less as "
            "they are",
            f"parameters {_change(before, after, 'parameters')}, multiply-accumulates "
            f"{_change(before, after, 'macs')}",
            f"relative error of the replaced weights {(lost / weight) ** 0.5 if weight else 0:.3g}",
        ]
        if spared:
            notes.append(f"left as they are, since the model {READ} itself: {listed(spared)}")
        if options.finetune is not None:
            finetune(module, options.finetune, context, technique=self.name)
        structure = {
            name: {"kind": found[name].kind, "ranks": list(r)} for name, r in chosen.items()
        }
        return module.eval(), Outcome({"layers": structure}, notes, [_figure(found)])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """Replace the same layers by chains of the same ranks."""
        from torch import nn

        from edgebench.factorization.layers import empty_layers, replace

        for name, made in structure["layers"].items():
            old = module.get_submodule(name)
            assert isinstance(old, (nn.Conv2d, nn.Linear))  # noqa: S101 - as `apply` found it
            replace(module, old, empty_layers(old, made["kind"], tuple(made["ranks"])))
        return module.eval()

    def _factorizations(
        self, module: nn.Module, options: Any, context: Context
    ) -> tuple[dict[str, Factorization], list[str]]:
        """The layers to factorize, by name, and those that the model itself reads instead."""
        from edgebench.factorization.layers import owners, read_by_the_model, uses, why_not

        layers = {name: cast("nn.Module", layer) for name, layer in weight_layers(module)}
        chosen = resolved(options.layers or (), layers, module)
        exclude = resolved(options.exclude, layers, module)
        tied, ran = owners(module), uses(module, context.examples())
        found: dict[str, Factorization] = {}
        for name, layer in layers.items():
            if within(name, exclude) or (chosen and not within(name, chosen)):
                continue
            made, reason = None, why_not(layer, tied)
            if reason is None and layer not in ran:
                reason = "is never called as a layer"
            if reason is None:
                seed = context.seed_for(f"{self.name}/{name}")
                made = _factorization(layer, ran[layer], options, seed)
                reason = "is not to be factorized: conv or dense is 'none'"
            if made is not None:
                found[name] = made
            elif name in chosen:
                raise BuildError(f"the layer '{name}' {reason}", hint="take it out of layers")
        candidates = {name: layers[name] for name in found}
        spared = read_by_the_model(module, candidates, context.examples())
        if asked := [name for name in spared if name in chosen]:
            raise BuildError(
                f"of the layer '{asked[0]}' the model {READ} itself", hint="take it out of layers"
            )
        found = {name: made for name, made in found.items() if name not in spared}
        if not found:
            raise BuildError("the model has no layer that can be factorized with these options")
        return found, spared


def _factorization(layer: Any, use: Any, options: Any, seed: int) -> Factorization | None:
    from torch import nn

    from edgebench.factorization.cp import Cp
    from edgebench.factorization.svd import SpatialSvd, Svd
    from edgebench.factorization.tucker import Tucker2

    if isinstance(layer, nn.Linear):
        return Svd(layer, use) if options.dense == "svd" else None
    if options.conv == "none":
        return None
    # A kernel of one position is a matrix.
    if options.conv == "svd" or layer.kernel_size == (1, 1):
        return Svd(layer, use)
    if options.conv == "spatial":
        return SpatialSvd(layer, use)
    return Cp(layer, use, seed) if options.conv == "cp" else Tucker2(layer, use)


def _change(before: dict[str, int], after: dict[str, int], of: str) -> str:
    return f"{before[of]:,} → {after[of]:,} ({1 - after[of] / before[of]:.1%} less)"


def _check_reach(
    found: dict[str, Factorization], chosen: dict[str, Ranks], goal: int, macs: int, options: Any
) -> None:
    """Raise BuildError where the smallest ranks there are do not save enough."""
    from edgebench.factorization.ranks import saved

    most = saved(found, chosen)
    if most < goal:
        raise BuildError(
            f"the smallest ranks save {most / macs:.1%} of the multiply-accumulates where "
            f"{options.ratio:.1%} are asked for",
            hint="lower ratio or round_to, or let more layers be factorized",
        )


def _check_achieved(before: int, after: int, options: Any) -> None:
    """Raise BuildError where the network that came out costs more than was asked for."""
    if after >= before or (options.ratio is not None and before - after < options.ratio * before):
        raise BuildError(
            f"the factors cost {after:,} multiply-accumulates of {before:,}, more than was chosen",
            hint="exclude layers whose input changes its size between calls",
        )


def _figure(found: dict[str, Factorization]) -> Figure:
    series = {
        " ".join(filter(None, (name, which))): tuple(_thinned(points))
        for name, layer in found.items()
        for which, points in layer.curves().items()
    }
    return Figure(
        title="What each rank keeps of a layer",
        x="rank / full rank",
        y="share of the squared weights kept",
        series=series,
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many of the points, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
