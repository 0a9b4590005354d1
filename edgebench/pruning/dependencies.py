"""torch-pruning's graph of the layers that lose channels together, and how far it can be trusted.

It follows the channels through the network (Fang et al., "DepGraph: Towards Any Structural
Pruning", CVPR 2023). Where it cannot, it fails deep inside, goes on without end, or is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from edgebench.errors import BuildError, EdgebenchError, one_line
from edgebench.models.calling import Inputs, as_inputs
from edgebench.pruning.importance import WEIGHTED, thaw
from edgebench.pruning.layer_names import listed

EXCLUDE = "leave them as they are with 'exclude'"
# Channels may be flattened into more places, but not into so many times those of the widest layer.
TOO_WIDE = 64


class UnfollowedError(BuildError):
    """The channels of `layers` cannot be followed to where they are used."""

    def __init__(self, layers: Sequence[str], why: str) -> None:
        super().__init__(
            f"the channels of {listed(layers)} cannot be followed: {why}", hint=EXCLUDE
        )
        self.layers = tuple(layers)


def dependency_graph(module: nn.Module, example: Inputs) -> Any:
    """torch-pruning's graph of dependencies; frozen parameters are thawed, to be followed."""
    thaw(module.eval())
    try:
        with silent(), torch.enable_grad():
            # In a tuple: bare, each of its examples would be tried as an argument of its own.
            graph = tp.DependencyGraph().build_dependency(module, example_inputs=as_inputs(example))
    except Exception as error:
        raise BuildError(
            f"torch-pruning cannot follow this model: {type(error).__name__}: "
            f"{one_line(str(error), 200)}"
        ) from error
    nodes = list(graph.module2node.values())
    sizes = [
        size(node) for node in nodes for size in (graph.get_in_channels, graph.get_out_channels)
    ]
    most = TOO_WIDE * max((int(size) for size in sizes if size is not None), default=0)
    for dependency in [one for node in nodes for one in node.dependencies]:
        dependency.index_mapping = _Bounded(dependency.index_mapping, most)
    return graph


def all_groups(
    graph: Any, names: dict[nn.Module, str], wanted: Callable[[Sequence[str]], bool]
) -> Iterator[Any]:
    """For each convolution or dense layer in no group before it: what goes with its outputs.

    Raises UnfollowedError where that cannot be told of a layer that is `wanted`.
    """
    seen: set[Any] = set()
    for layer in [part for part in graph.module2node if isinstance(part, WEIGHTED)]:
        if layer in seen:
            continue
        try:
            group = outputs_group(graph, layer, names[layer])
        except UnfollowedError:
            if wanted([names[layer]]):
                raise
            continue
        seen |= {
            i.dep.target.module for i in group if graph.is_out_channel_pruning_fn(i.dep.handler)
        }
        yield group


def outputs_group(
    graph: Any, layer: nn.Module, name: str, indices: Sequence[int] | None = None
) -> Any:
    """What goes together with some outputs of a layer, none: with all; or UnfollowedError."""
    chosen = range(graph.get_out_channels(layer)) if indices is None else indices
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    with silent(), followed([name]):
        return graph.get_pruning_group(layer, prune, list(chosen))


@contextmanager
def followed(layers: Sequence[str]) -> Iterator[None]:
    """Makes an UnfollowedError of whatever torch-pruning fails with."""
    try:
        yield
    except EdgebenchError:
        raise
    except Exception as error:
        text = one_line(str(error), 120)
        raise UnfollowedError(
            layers, f"torch-pruning fails with {type(error).__name__}: {text}"
        ) from error


@contextmanager
def silent() -> Iterator[None]:
    """Without torch-pruning's warnings: what matters of them is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Bounded(list[Any]):
    """The index mappings of one dependency, which may go round in circles and grow each time.

    `most`: more places than that are an error.
    """

    def __init__(self, mappings: Sequence[Any], most: int) -> None:
        super().__init__(mappings)
        self.most = most

    def __iter__(self) -> Iterator[Any]:
        return (mapping and partial(_mapped, mapping, self.most) for mapping in super().__iter__())


def _mapped(mapping: Any, most: int, indices: Sequence[Any]) -> Any:
    # Asked before they are made: there may be no memory for them.
    each = 1 if mapping.reverse else getattr(mapping, "_stride", 1)
    if len(indices) * each > most:
        raise ValueError(f"more than {most:,} places in one layer")
    return mapping(indices)
