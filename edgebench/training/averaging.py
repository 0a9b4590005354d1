"""The exponential moving average of a network's weights over the updates of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


class Average:
    """The mean of a network's state after each update, where one of age a counts decay^a.

    The counts are normalised, as Adam's are (Kingma and Ba, 2015, section 3): else the first
    update would count 1 / (1 − decay) times as much as the last, and be most of a short training.
    Running statistics of batch normalisation are averaged like the weights they belong to. What
    has no mean is the network's latest: integers, truth values, and what is not finite from the
    start, such as an attention mask of −∞.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors = {name: t.clone() for name, t in _tensors(module).items()}
        self._averaged = [
            name
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point() and bool(tensor.isfinite().all())
        ]

    def update(self, module: nn.Module) -> None:
        """Take in the network as it stands after an update."""
        import torch

        latest = _tensors(module)
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        rule = torch.optim.swa_utils.get_ema_multi_avg_fn(1 - share)  # type: ignore[no-untyped-call]
        if self._averaged:
            averages = [self.tensors[name] for name in self._averaged]
            rule(averages, [latest[name] for name in self._averaged], self.updates)
        for name in self.tensors.keys() - set(self._averaged):
            self.tensors[name].copy_(latest[name])

    def put_into(self, module: nn.Module) -> None:
        """Put the average in the place of the network's weights."""
        module.load_state_dict({**module.state_dict(), **self.tensors})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"updates": self.updates, "tensors": self.tensors}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.updates = int(state["updates"])
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network, less what a module of the user's may add that is no tensor."""
    import torch

    return {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}
