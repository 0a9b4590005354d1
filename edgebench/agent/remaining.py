"""How long a plan still takes, for the progress."""

from __future__ import annotations

from typing import Any, Dict, List

from .scenarios.jobs import asked_seconds

# Starting Python with numpy and a runtime, before one has been timed.
_START_GUESS_S = 0.4


class Remaining:
    """From the protocol at first, then from what was seen.

    How many processes a model gets is not known beforehand where the measurement stops on its own
    precision; the least number is taken.
    """

    def __init__(self, protocol: Dict[str, Any], models: List[Dict[str, Any]]) -> None:
        self._protocol = protocol
        self._left = {True: 0, False: 0}
        for model in models:
            self._left[model["timed"]] += self._processes(model)
        blocks_s = 2 * protocol["pairs"] * protocol["block_s"] + protocol["single_s"]
        timed_s = _START_GUESS_S + 2 * protocol["warmup_s"] + blocks_s
        self._each_s: Dict[bool, float] = {True: timed_s, False: _START_GUESS_S}
        once: float = sum(map(self._scenario_s, protocol["scenarios"])) * protocol["processes"]
        self._scenarios_s = once * sum(model["timed"] for model in models)

    def _processes(self, model: Dict[str, Any]) -> int:
        return int(self._protocol["processes"]) if model["timed"] else 1

    def took(self, model: Dict[str, Any], seconds: float, index: int) -> None:
        """Process number `index` of a model is over."""
        if index < self._processes(model):
            self._left[model["timed"]] -= 1
        self._each_s[model["timed"]] = seconds

    def took_scenario(self, spec: Dict[str, Any]) -> None:
        """One process of a scenario is over."""
        self._scenarios_s -= self._scenario_s(spec)

    def skip(self, model: Dict[str, Any], done: int = 0) -> None:
        """A model's other processes, beyond the `done` ones, are not started."""
        self._left[model["timed"]] -= max(0, self._processes(model) - done)
        if model["timed"]:
            specs, processes = self._protocol["scenarios"], self._protocol["processes"]
            self._scenarios_s -= sum(map(self._scenario_s, specs)) * processes

    def seconds_left(self) -> float:
        """An estimate in seconds."""
        seconds = sum(left * self._each_s[timed] for timed, left in self._left.items())
        return float(round(seconds + max(0.0, self._scenarios_s), 1))

    def _scenario_s(self, spec: Dict[str, Any]) -> float:
        seconds: float = self._protocol["warmup_s"] + asked_seconds(spec)
        return _START_GUESS_S + 2 * seconds
