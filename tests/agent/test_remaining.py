from __future__ import annotations

from edgebench.agent.remaining import Remaining
from edgebench.scenario import resolve_scenarios

PROTOCOL = {
    "processes": 2,
    "pairs": 1,
    "block_s": 0.1,
    "single_s": 0.1,
    "warmup_s": 0.0,
    "scenarios": [],
}
MODELS = [{"name": "base", "timed": True}]


def test_a_server_at_a_low_rate_takes_as_long_as_its_least_queries():
    listed = [{"scenario": "server", "qps": 1, "duration_s": 1, "min_queries": 30}]
    specs = resolve_scenarios(listed, profile="quick", batch=1, where="test")
    scenarios = [one.model_dump(mode="json") for one in specs]
    clock = Remaining({**PROTOCOL, "scenarios": scenarios}, MODELS)
    without = Remaining(PROTOCOL, MODELS).seconds_left()
    # Base and the model, 30 s each, in two processes.
    assert 120 <= clock.seconds_left() - without < 122
    clock.took_scenario(scenarios[0])
    assert 60 <= clock.seconds_left() - without < 61
