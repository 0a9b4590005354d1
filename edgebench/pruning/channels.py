"""Channels that can only go together, how much each is worth, and how they are taken out.

torch-pruning follows the channels through the network and cuts the weights (Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023). How many go is decided elsewhere: its own pruner can
prune nothing and say nothing.
"""

from __future__ import annotations

import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from edgebench.errors import BuildError, one_line
from edgebench.models.calling import Inputs, as_inputs, named_answers
from edgebench.pruning.dependencies import (
    EXCLUDE,
    UnfollowedError,
    all_groups,
    dependency_graph,
    followed,
    outputs_group,
    silent,
)
from edgebench.pruning.exchange import Place, answers_of, may_be_exchanged
from edgebench.pruning.heads import Attention, attention_modules, is_laid_out_so, take_out
from edgebench.pruning.importance import OWN_FILTERS, WEIGHTED, Importance
from edgebench.pruning.layer_names import listed


@dataclass(frozen=True, eq=False)
class Group:
    """The channels of one layer, with all layers that cannot be pruned apart from it.

    `name`: the layer whose outputs they are; `layers`: all convolutions and dense layers that lose
    outputs with it. The `channels` go `unit` at a time: one from each group of a grouped
    convolution or a group normalisation, one from each head, one from each of the equal parts of a
    layer that are multiplied with one another. `worth` has one value a channel (the
    lowest goes first), None where the criterion has nothing to say. `attention`: they are those of
    its heads.
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    unit: int
    worth: torch.Tensor | None
    attention: Attention | None = None

    @property
    def units(self) -> int:
        """How many parts can go one by one."""
        return self.channels // self.unit

    def scores(self) -> torch.Tensor:
        """What each unit is worth: the mean over its channels, [units]."""
        return self._worth().view(self.unit, -1).mean(0)

    def head_scores(self) -> torch.Tensor:
        """What each head of an attention is worth: the mean over its channels, [heads]."""
        return self._worth().view(self.unit, -1).mean(1)

    def weakest(self, count: int) -> list[int]:
        """The channels of the `count` units that are worth least, ascending."""
        chosen = torch.argsort(self.scores(), stable=True)[:count].tolist()
        return sorted(part * self.units + unit for part in range(self.unit) for unit in chosen)

    def _worth(self) -> torch.Tensor:
        assert self.worth is not None  # noqa: S101 - groups without are left out of every plan
        return self.worth


def find_groups(
    module: nn.Module,
    example: Inputs,
    importance: Importance,
    wanted: Callable[[Sequence[str]], bool],
) -> list[Group]:
    """The groups of channels that may go, the outputs' left out, about in order of execution.

    `example`: inputs [2, ...], one tensor or one for each input. `wanted` says of the layers of a
    group whether it may be touched. Raises UnfollowedError where the channels of such a layer
    cannot be followed.
    """
    ran: dict[nn.Module, None] = {}
    hooks = [
        part.register_forward_hook(lambda this, *_: ran.update({this: None}))
        for part in module.modules()
        if isinstance(part, WEIGHTED)
    ]
    try:
        graph = dependency_graph(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    names = {part: name for name, part in module.named_modules()}
    for part in ran:
        # torch-pruning follows gradients: it does not see such a layer, and says nothing.
        if part not in graph.module2node and wanted([names[part]]):
            raise UnfollowedError(
                [names[part]],
                "the model's answer has no gradient to them (detach, argmax, no_grad, numpy)",
            )
    attentions = {qkv: name for name, (qkv, _, _) in attention_modules(module).items()}
    follow = _Follow(module, graph, names, example, importance, answers_of(module, example))
    groups = []
    with silent():
        for found in all_groups(graph, names, wanted):
            makers = [item.dep.target.module for item in found if item.dep.handler in OWN_FILTERS]
            layers = tuple(names[part] for part in _pruned_outputs(graph, found))
            # Of a depthwise convolution alone the channels are the model's inputs.
            if not makers or not wanted(layers) or any(_is_output(graph, i.dep) for i in found):
                continue
            inside = next((maker for maker in makers if maker in attentions), None)
            if inside is None:
                groups.append(follow.plain(found, layers))
            else:
                groups.append(follow.attention(found, attentions[inside]))
    return list(reversed(groups))


def remove(module: nn.Module, step: dict[str, Any], example: Inputs) -> None:
    """Take channels out of `module` in place, with all that depends on them.

    `step` is JSON-able: `channels` lists [layer, indices of its outputs]; `attention` has the
    fields of an `Attention` with the `channels` that go and the heads that are `left`.

    Raises
    ------
    BuildError
        The module does not run with fewer channels; the message names the line that failed.
    """
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    graph = dependency_graph(module, example)
    parts = dict(module.named_modules())
    with torch.no_grad():
        wanted = _shapes(module(*as_inputs(example)))
    for name, indices in step["channels"]:
        group = outputs_group(graph, parts[name], name, indices)
        if not graph.check_pruning_group(group):
            raise BuildError(f"no channel would be left where '{name}' is used", hint=EXCLUDE)
        with followed([name]):
            group.prune()
    for entry in step["attention"]:
        fields = dict(entry)
        channels, left = fields.pop("channels"), fields.pop("left")
        take_out(module, Attention(**fields), channels, left)
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    given = _shapes(_run(module, example))
    if given != wanted:
        layers = [name for name, _ in step["channels"]]
        layers += [entry["qkv"] for entry in step["attention"]]
        raise BuildError(
            f"the module answers with the shape {', '.join(map(str, given))} instead of "
            f"{', '.join(map(str, wanted))} when channels of {listed(layers)} are gone",
            hint=EXCLUDE,
        )


@dataclass(frozen=True)
class _Follow:
    """Turns what torch-pruning finds into groups, and checks that it found right."""

    model: nn.Module
    graph: Any
    names: dict[nn.Module, str]
    example: Inputs
    importance: Importance
    answers: Sequence[torch.Tensor]

    def plain(self, found: Any, layers: tuple[str, ...]) -> Group:
        """The channels of a group, in the smallest units that go together."""
        graph, names = self.graph, self.names
        for item in found:
            part = item.dep.target.module
            if isinstance(part, WEIGHTED) and part._parameters.get("weight") is None:
                raise UnfollowedError(
                    layers,
                    f"the weight of '{names[part]}' is computed from other parameters "
                    "(a parametrization)",
                )
            if isinstance(part, nn.modules.conv._ConvTransposeNd) and _parts(item.dep) > 1:
                raise UnfollowedError(
                    layers, f"'{names[part]}' is a transposed convolution with groups"
                )
            if part in names and item.idxs and max(item.idxs) >= _size(graph, item.dep):
                raise UnfollowedError(layers, f"'{names[part]}' has fewer of them")
        root = found[0].dep.target.module
        channels = int(graph.get_out_channels(root))
        first = outputs_group(graph, root, names[root], [0])
        # Halves of one layer that are multiplied with one another go together.
        unit = math.lcm(len(first[0].idxs), *(_parts(item.dep) for item in found))
        if channels % unit:
            raise UnfollowedError(layers, f"{channels} channels do not part evenly by {unit}")
        places = list(range(0, channels, channels // unit))
        if unit > 1:
            first = outputs_group(graph, root, names[root], places)
        if sorted(first[0].idxs) != places:
            raise UnfollowedError(layers, f"'{names[root]}' ties them to one another unevenly")
        for item in first:
            if not _is_even(graph, item):
                name = names.get(item.dep.target.module, "a layer")
                raise UnfollowedError(layers, f"'{name}' parts them at other places")
        if not may_be_exchanged(
            self.model,
            self.example,
            self.answers,
            self._places(found),
            units=channels // unit,
            unit=unit,
        ):
            raise UnfollowedError(
                layers,
                "the answer depends on their order: they are put into another one on their way "
                "(permute, shuffle, heads), or are themselves an answer",
            )
        worth = self._worth(found, layers, channels)
        return Group(names[root], layers, channels, unit, worth)

    def _places(self, found: Any) -> list[Place]:
        """The layers and parameters that a group's channels run through."""
        graph, places = self.graph, []
        for item in found:
            part, size = item.dep.target.module, _size(graph, item.dep)
            if not (isinstance(part, nn.Parameter) or part in self.names) or math.isinf(size):
                continue
            indices = defaultdict(list)
            for index, channel in sorted(zip(item.idxs, item.root_idxs, strict=True)):
                indices[channel].append(index)
            made = graph.is_out_channel_pruning_fn(item.dep.handler)
            read = graph.is_in_channel_pruning_fn(item.dep.handler)
            axis = item.dep.target.pruning_dim
            places.append(Place(part, int(size), indices, made=made, read=read, axis=axis))
        return places

    def attention(self, found: Any, name: str) -> Group:
        """The channels inside the heads of one attention, ranked over queries, keys and values."""
        names = self.names
        qkv, heads, size = attention_modules(self.model)[name]
        others = {item.dep.target.module for item in found} & names.keys() - {qkv}
        reader = next(iter(others), None)
        if len(others) != 1 or not isinstance(reader, nn.Linear):
            touched = listed(sorted(names[part] for part in others)) or "none"
            raise UnfollowedError(
                [names[qkv]], f"one dense layer should read the heads of '{name}', found: {touched}"
            )
        attention = Attention(name, names[qkv], names[reader], heads, size)
        if reader.in_features != attention.width or not is_laid_out_so(
            self.model, attention, self.example
        ):
            raise UnfollowedError(
                [names[qkv]],
                f"the attention '{name}' does not use its qkv layer as [3, num_heads, head_dim]",
            )
        # By hand: torch-pruning finds queries, keys and values where they are unbound, but not
        # where they are indexed or chunked.
        width = attention.width
        items = [self._alone(reader, tp.prune_linear_in_channels, range(width))]
        for part in range(3):
            rows = range(part * width, (part + 1) * width)
            items.append(self._alone(qkv, tp.prune_linear_out_channels, rows))
        worth = self._worth(items, [names[qkv]], width)
        return Group(names[qkv], (names[qkv],), width, heads, worth, attention)

    def _alone(self, layer: nn.Module, prune: Any, indices: Sequence[int]) -> Any:
        """One layer's place in a group, its channels counted from the first of the indices."""
        found = self.graph.get_pruning_group(layer, prune, list(indices))[0]
        item = type(found)(found.dep, list(indices))
        item.root_idxs = list(range(len(indices)))
        return item

    def _worth(self, items: Any, layers: Sequence[str], channels: int) -> torch.Tensor | None:
        with followed(layers):
            worth = self.importance(items)
        if worth is None:
            return None
        if len(worth) != channels:
            raise UnfollowedError(layers, f"{len(worth)} were ranked of {channels}")
        # Where all weights of a group are zero, their share of the mean is 0/0.
        return torch.nan_to_num(worth.detach().double(), nan=0.0)


def _pruned_outputs(graph: Any, found: Any) -> list[nn.Module]:
    """The convolutions and dense layers of a group that lose outputs, depthwise ones as well."""
    parts = [i.dep.target.module for i in found if graph.is_out_channel_pruning_fn(i.dep.handler)]
    return list(dict.fromkeys(part for part in parts if isinstance(part, WEIGHTED)))


def _is_output(graph: Any, dep: Any) -> bool:
    """Whether pruning this would change the module's answer: nothing comes after it."""
    return not dep.target.outputs and graph.is_out_channel_pruning_fn(dep.handler)


def _size(graph: Any, dep: Any) -> float:
    """How many channels a layer has on the side that a dependency prunes."""
    out = graph.is_out_channel_pruning_fn(dep.handler)
    size = (graph.get_out_channels if out else graph.get_in_channels)(dep.target)
    return math.inf if size is None else int(size)


def _parts(dep: Any) -> int:
    """In how many equal parts a layer reads or makes its channels."""
    target = dep.target.module
    if isinstance(target, nn.modules.conv._ConvNd):
        # Of a depthwise convolution each channel can go by itself.
        return 1 if target.groups == target.out_channels else target.groups
    if isinstance(target, nn.GroupNorm):
        return int(target.num_groups)
    if isinstance(target, nn.MultiheadAttention):
        return int(target.num_heads)
    return 1


def _is_even(graph: Any, item: Any) -> bool:
    """Whether the same places go from each of a layer's equal parts."""
    parts, size = _parts(item.dep), _size(graph, item.dep)
    if parts == 1 or not math.isfinite(size):
        return True
    each = int(size) // parts
    places = [sorted(i % each for i in item.idxs if i // each == part) for part in range(parts)]
    return all(place == places[0] for place in places)


def _run(module: nn.Module, example: Inputs) -> Any:
    """The module's answer; where it fails, a BuildError that says at what line of which part."""
    names = {part: name for name, part in module.named_modules()}
    running: list[str] = []

    def enter(part: nn.Module, _: Any) -> None:
        running.append(names[part])

    def leave(*_: Any) -> None:
        running.pop()

    hooks = []
    for part in names:
        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        with torch.no_grad():
            answer = module(*as_inputs(example))
    except Exception as error:
        place = f" in '{running[-1]}'" if running and running[-1] else ""
        line = _line_of(error)
        raise BuildError(
            f"with fewer channels the model fails{place}{f' at `{line}`' if line else ''}: "
            f"{one_line(str(error), 160)}",
            hint="take sizes from the tensors' shapes, or name the layers before it in 'exclude'",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return answer


def _shapes(answer: Any) -> list[list[int]]:
    """The shape of each tensor of an answer."""
    return [list(one.shape) for one in named_answers(answer, where="the module").values()]


def _line_of(error: Exception) -> str | None:
    """The innermost line of the user's own code that an error came through."""
    libraries = (Path(torch.__file__).parent, Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(folder) for folder in libraries):
            return frame.line
    return None
