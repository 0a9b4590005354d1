"""MLPerf's load generator on queries whose length is known."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes.base import Query
from edgebench.agent.scenarios import loops
from edgebench.agent.scenarios.loadgen import LOGS, Load, drive, read_detail, read_trace
from edgebench.agent.scenarios.loops import Enough

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)
SLEEP_MS = 20.0
FEEDS = [(np.array([[i], [i + 0.5]], dtype="float32"),) for i in range(3)]


def load(scenario: str, **settings) -> Load:
    asked = {"enough": Enough(0.0, 12), "call_ns": SLEEP_MS * 1e6, "batch": 1}
    return Load(scenario, **asked | settings)


def sleeping() -> Query:
    """A query of a known length: LoadGen reads a clock of its own, which only real time moves."""
    return Query(lambda feed: None, lambda bound: time.sleep(SLEEP_MS / 1e3), lambda: ())


def instant(write: Callable[[Any], object] = lambda feed: None) -> Query:
    """A query whose length does not matter."""
    return Query(write, lambda bound: None, lambda: ())


def test_its_latency_of_a_query_is_ours(tmp_path):
    feeds = [(np.zeros((1, 1), dtype="float32"),)] * 3
    timeline, said = drive(sleeping(), feeds, load("single-stream"), seeds=(1, 2, 3), out=tmp_path)
    ours_ms = (np.array(timeline.end_ns) - np.array(timeline.scheduled_ns)) / 1e6
    assert said["queries"] == len(ours_ms) == said["agreement"]["queries"]
    assert said["percentiles_ms"]["50"] == pytest.approx(np.median(ours_ms), abs=SLEEP_MS / 4)
    assert 0 <= said["agreement"]["median_difference_ns"] < SLEEP_MS * 1e6 / 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(LOGS)


def test_its_server_counts_from_when_a_query_was_due_and_so_do_we(tmp_path):
    feeds = [(np.zeros((1, 1), dtype="float32"),)] * 3
    # Four times as many as it can serve: the queue grows, and with it every latency.
    settings = load("server", qps=4e3 / SLEEP_MS, target_latency_ms=SLEEP_MS)
    timeline, said = drive(sleeping(), feeds, settings, seeds=(1, 2, 3), out=tmp_path)
    ours_ms = (np.array(timeline.end_ns) - np.array(timeline.scheduled_ns)) / 1e6
    service_ms = (np.array(timeline.end_ns) - np.array(timeline.start_ns)) / 1e6
    assert said["validity"] == "INVALID"
    assert ours_ms[-1] > 4 * service_ms[-1]
    assert said["agreement"]["queries"] == len(ours_ms)
    assert abs(said["agreement"]["median_difference_ns"]) < SLEEP_MS * 1e6 / 4


def test_its_server_waits_for_the_least_queries_at_a_low_rate(tmp_path):
    # 16 at 10 a second arrive in 1.6 s, and no time at all was asked for.
    settings = load("server", enough=Enough(0.0, 16), qps=10.0, target_latency_ms=SLEEP_MS)
    timeline, said = drive(instant(), FEEDS, settings, seeds=(1, 2, 5), out=tmp_path)
    assert len(timeline) == said["queries"] == 16
    assert timeline.scheduled_ns[-1] - timeline.scheduled_ns[0] > 1e9
    assert said["min_queries_met"]


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [
        ("single-stream", {}),
        ("multi-stream", {"samples": 2}),
        ("server", {"qps": 5000.0, "target_latency_ms": 50.0}),
        ("offline", {}),
    ],
)
def test_it_ends_at_the_most_queries(tmp_path, monkeypatch, scenario, settings):
    monkeypatch.setattr(loops, "MOST_QUERIES", 40)
    enough = Enough(3600.0, 5)
    asked = load(scenario, enough=enough, call_ns=1e5, **settings)
    timeline, _ = drive(instant(), FEEDS, asked, seeds=(1, 2, 3), out=tmp_path)
    assert enough.ended_at(timeline, settings.get("qps")) == len(timeline) == 40


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_offline_it_asks_for_whole_batches_and_no_fewer_than_the_least(tmp_path, seconds):
    seen: list = []
    # Long enough that those it asks for fill the time: a shorter run LoadGen calls invalid.
    query = Query(
        lambda feed: seen.append(feed[0].copy()), lambda bound: time.sleep(1e-4), lambda: ()
    )
    settings = load("offline", enough=Enough(seconds, 7), batch=2, call_ns=3e4)
    timeline, _ = drive(query, FEEDS, settings, seeds=(1, 2, 3), out=tmp_path)
    # In 1 ms there is time for 33.3 of them, and LoadGen adds a tenth.
    assert len(timeline) == len(seen) == (7 if seconds == 0 else 37)
    examples = np.concatenate(seen).ravel()
    assert np.unique(examples, return_counts=True)[1].max() <= -(-len(examples) // 6)


def test_the_same_seeds_give_the_same_arrivals(tmp_path):
    feeds = [(np.zeros((1, 1), dtype="float32"),)] * 3
    gaps = []
    for number, seeds in enumerate([(1, 2, 3), (1, 2, 3), (1, 2, 4)]):
        settings = load("server", qps=100.0, target_latency_ms=SLEEP_MS)
        out = tmp_path / str(number)
        out.mkdir()
        timeline, _ = drive(instant(), feeds, settings, seeds=seeds, out=out)
        gaps.append(np.diff(timeline.scheduled_ns) / 1e6)
    # The clock's own unevenness is far below the 10 ms between arrivals.
    assert np.median(abs(gaps[0] - gaps[1])) < 1 < np.median(abs(gaps[0] - gaps[2]))


def test_a_batch_holds_just_the_examples_it_asked_for(tmp_path):
    seen: list = []
    query = instant(lambda feed: seen.append(feed[0].copy()))
    settings = load("multi-stream", samples=4, batch=2)
    drive(query, FEEDS, settings, seeds=(1, 2, 3), out=tmp_path)
    assert all(batch.shape == (2, 1) for batch in seen)
    assert set(np.concatenate(seen).ravel().tolist()) <= {0.0, 0.5, 1.0, 1.5, 2.0, 2.5}


def test_a_query_that_fails_ends_the_run_and_not_the_process(tmp_path):
    def dies(bound: object) -> None:
        raise ModelFailedError("out of luck")

    query = Query(lambda feed: None, dies, lambda: ())
    with pytest.raises(ModelFailedError, match="failed under LoadGen: out of luck"):
        drive(query, FEEDS, load("offline", batch=2), seeds=(1, 2, 3), out=tmp_path)


def test_a_damaged_detail_log_gives_what_can_be_read():
    text = ':::MLLOG {"key": "result_validity", "value": "VALID"}\n:::MLLOG {"key": nothing\nx\n'
    assert read_detail(text) == {"percentiles_ms": {}, "validity": "VALID"}


def test_a_query_of_several_samples_ends_with_the_last_of_them(tmp_path):
    line = '"sample_seq":{},"query_seq":0,"sample_idx":1,"issue_start_ns":{},"complete_ns":{}'
    text = "\n".join(line.format(i, 50, done) for i, done in enumerate([700, 900, 800]))
    (tmp_path / "trace").write_text(text)
    assert read_trace(tmp_path / "trace") == {0: (50, 900)}
