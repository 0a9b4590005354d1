"""MLPerf's own load generator drives the same query, under its rules, and gives its own verdict.

Package mlcommons-loadgen, module mlperf_loadgen; https://github.com/mlcommons/inference, folder
loadgen. Its logs stay in the results; what they say is kept beside our own times of each query.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from ..errors import ModelFailedError, one_line
from .loops import Enough, Timeline

if TYPE_CHECKING:
    from ..measure import Clock
    from ..runtimes.base import Feed, Query

LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt")
_TRACE = "mlperf_log_trace.json"
_SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
_SAMPLE = re.compile(
    r'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)'
)
# Of an offline query: LoadGen asks for so much more than should fill the time.
_SLACK = 1.1
_PERCENTILE = re.compile(r"result_([\d.]+)_percentile_latency_ns")
_SAID = {
    "result_validity": "validity",
    "result_query_count": "queries",
    "result_min_duration_met": "min_duration_met",
    "result_min_queries_met": "min_queries_met",
    "result_perf_constraints_met": "latency_constraint_met",
    "early_stopping_met": "early_stopping_met",
    "result_invalid_reason": "invalid_reason",
    "result_samples_per_second": "samples_per_s",
    "result_completed_samples_per_sec": "completed_per_s",
    "result_scheduled_samples_per_sec": "scheduled_per_s",
    "result_qps_with_loadgen_overhead": "queries_per_s",
    "loadgen_version": "version",
    "num_errors": "errors",
}


class Load:
    """What LoadGen is to do.

    `scenario` is our name of it, `samples` of a multi-stream query, `qps` of a server; `call_ns` is
    how long an inference of `batch` examples takes, from which it plans how many it needs. Queries
    of `enough` are inferences where it is offline.
    """

    def __init__(
        self,
        scenario: str,
        *,
        enough: Enough,
        call_ns: float,
        batch: int,
        samples: int = 1,
        qps: float = 0.0,
        target_latency_ms: Optional[float] = None,
    ) -> None:
        self.scenario = scenario
        self.enough = enough
        self.call_ns = call_ns
        self.batch = batch
        self.samples = samples
        self.qps = qps
        self.target_latency_ms = target_latency_ms


def import_loadgen() -> Any:
    """The module; raises ModelFailedError where it is not installed."""
    try:
        return importlib.import_module("mlperf_loadgen")
    except ImportError as error:
        raise ModelFailedError(
            "driver: loadgen needs MLPerf's load generator, which this Python has not: "
            f"pip install mlcommons-loadgen ({one_line(str(error), 100)})"
        ) from error


def drive(
    query: Query,
    feeds: List[Feed],
    load: Load,
    *,
    seeds: Tuple[int, int, int],
    out: Path,
    clock: Clock = time.perf_counter_ns,
) -> Tuple[Timeline, Dict[str, Any]]:
    """Let LoadGen ask `query`; gives our times and what LoadGen says.

    Its samples are the examples in `feeds`, each of the query's batch. The summary and the detail
    log are left in `out`. Raises ModelFailedError.
    """
    lg = import_loadgen()
    system = _System(lg, query, feeds, load, clock)
    # Everything is written at the end: its logging thread would share the measured processor.
    logs = lg.LogSettings()
    logs.log_mode = lg.LoggingMode.EndOfTestOnly
    logs.log_output.outdir = str(out)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = True
    sut = lg.ConstructSUT(system.issue, lambda: None)
    # The examples are in memory already, so loading and unloading them does nothing.
    qsl = lg.ConstructQSL(
        system.examples, system.examples, lambda indices: None, lambda indices: None
    )
    try:
        # An audit file in the working folder would change the test; this name is no such file.
        settings = _settings(lg, load, seeds)
        lg.StartTestWithLogSettings(sut, qsl, settings, logs, str(out / "no-audit.config"))
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    if system.problem is not None:
        raise ModelFailedError(f"failed under LoadGen: {system.problem}")
    timeline, agreement = _with_schedule(system, read_trace(out / _TRACE), load.scenario)
    for path in out.iterdir():
        if path.name not in LOGS:
            path.unlink()
    said = read_detail((out / LOGS[1]).read_text(encoding="utf-8", errors="replace"))
    return timeline, {**said, "agreement": agreement}


def read_detail(text: str) -> Dict[str, Any]:
    """LoadGen's own result out of its detail log; percentiles in ms, by their number."""
    found: Dict[str, Any] = {"percentiles_ms": {}}
    for line in text.splitlines():
        if not line.startswith(":::MLLOG "):
            continue
        try:
            entry = json.loads(line[len(":::MLLOG ") :])
        except ValueError:
            continue
        key, value = str(entry.get("key")), entry.get("value")
        percentile = _PERCENTILE.fullmatch(key)
        if percentile:
            found["percentiles_ms"][f"{float(percentile.group(1)):g}"] = float(value) / 1e6
        elif key in _SAID:
            found[_SAID[key]] = one_line(value, 300) if isinstance(value, str) else value
    return found


def read_trace(path: Path) -> Dict[int, Tuple[int, int]]:
    """Of each query, by number: when it was issued and when complete, in ns after it was due.

    A query of several samples is complete with the last of them.
    """
    queries: Dict[int, Tuple[int, int]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            found = _SAMPLE.search(line)
            if found:
                number, issued, complete = (int(group) for group in found.groups())
                before = queries.get(number, (issued, complete))
                queries[number] = (min(issued, before[0]), max(complete, before[1]))
    return queries


class _System:
    """The system under test, as LoadGen calls it: answers samples in batches, one after another."""

    def __init__(self, lg: Any, query: Query, feeds: List[Feed], load: Load, clock: Clock) -> None:
        import numpy as np

        self._complete: Callable[[Any], None] = lg.QuerySamplesComplete
        self._response = lg.QuerySampleResponse
        self._query = query
        self._feeds = feeds
        self._batch = load.batch
        self._by_batch = load.scenario == "offline"
        self._clock = clock
        self._mixed = tuple(np.empty_like(array) for array in feeds[0])
        self.examples = len(feeds) * load.batch
        self.timeline = Timeline()
        self.problem: Optional[str] = None

    def issue(self, samples: List[Any]) -> None:
        """Answer one query of LoadGen."""
        start = first = self._clock()
        for at in range(0, len(samples), self._batch):
            chunk = samples[at : at + self._batch]
            # An exception must not reach LoadGen, which would end the process; and it waits for
            # every answer.
            try:
                if self.problem is None:
                    self._query.write(self._feed([sample.index for sample in chunk]))
                    self._query.run()
                    if self._by_batch:
                        now = self._clock()
                        self.timeline.add(first, start, now)
                        start = now
            except Exception as error:
                self.problem = one_line(str(error), 300)
            if self._by_batch:
                self._answer(chunk)
        if not self._by_batch:
            try:
                self.timeline.add(first, start, self._clock())
            except ModelFailedError as error:
                self.problem = self.problem or str(error)
            self._answer(samples)

    def _answer(self, samples: List[Any]) -> None:
        self._complete([self._response(sample.id, 0, 0) for sample in samples])

    def _feed(self, indices: List[int]) -> Feed:
        """The feed of just these examples; a short one is filled up with its last."""
        if self._batch == 1:
            return self._feeds[indices[0]]
        filled = indices + indices[-1:] * (self._batch - len(indices))
        for place, index in enumerate(filled):
            feed, row = self._feeds[index // self._batch], index % self._batch
            for mixed, array in zip(self._mixed, feed):
                mixed[place] = array[row]
        return self._mixed


def _settings(lg: Any, load: Load, seeds: Tuple[int, int, int]) -> Any:
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    settings.scenario = getattr(lg.TestScenario, _SCENARIOS[load.scenario])
    enough = load.enough
    settings.min_duration_ms = enough.ns // 10**6
    settings.min_query_count = enough.queries
    settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed = seeds
    # It makes twice the queries that it expects before it asks the first.
    shortest_ns = max(1, enough.ns // enough.most)
    if load.scenario == "single-stream":
        settings.max_query_count = enough.most
        settings.single_stream_expected_latency_ns = max(shortest_ns, int(load.call_ns))
    elif load.scenario == "multi-stream":
        settings.max_query_count = enough.most
        settings.multi_stream_samples_per_query = load.samples
        query_ns = int(load.call_ns * load.samples / load.batch)
        settings.multi_stream_expected_latency_ns = max(shortest_ns, query_ns)
    elif load.scenario == "server":
        settings.max_query_count = enough.most
        if load.qps * enough.ns / 1e9 > enough.most:
            settings.min_duration_ms = int(1e3 * enough.most / load.qps)
            settings.min_query_count = enough.most
        settings.server_target_qps = load.qps
        settings.server_target_latency_ns = int((load.target_latency_ms or 0) * 1e6)
        settings.server_target_latency_percentile = 0.99
        # Where the server cannot keep up, the last answer would come after any time at all; and
        # one that does needs the time in which so many queries arrive.
        arriving_ms = int(1e3 * settings.min_query_count / load.qps)
        settings.max_duration_ms = 2 * max(settings.min_duration_ms, arriving_ms) + 1000
    else:
        # Whole batches: a part of one takes as long and would count as one.
        wanted = math.ceil(_SLACK * enough.ns / max(load.call_ns, 1.0))
        calls = min(enough.most, max(enough.queries, wanted))
        settings.min_query_count = calls * load.batch
        settings.offline_expected_qps = 1e9 * load.batch / max(load.call_ns, 1.0)
        if enough.ns:
            # Times its slack, this is what it asks for itself; it takes the larger number.
            ours = 1e9 * calls * load.batch / enough.ns / _SLACK
            settings.offline_expected_qps = min(settings.offline_expected_qps, 0.999 * ours)
    return settings


def _with_schedule(
    system: _System, trace: Dict[int, Tuple[int, int]], scenario: str
) -> Tuple[Timeline, Dict[str, Any]]:
    """Our times with LoadGen's schedule, and how far its latencies are from ours, in ns."""
    ours, timeline, differences = system.timeline, Timeline(), []
    if scenario == "offline":
        if 0 in trace and len(ours):
            differences.append(trace[0][1] - trace[0][0] - (ours.end_ns[-1] - ours.start_ns[0]))
        timeline = ours
    else:
        for number in range(len(ours)):
            issued, complete = trace.get(number, (0, None))
            start, end = ours.start_ns[number], ours.end_ns[number]
            # In a closed loop LoadGen, too, counts from when it asks.
            scheduled = start - max(0, issued) if scenario == "server" else start
            timeline.add(scheduled, start, end)
            if complete is not None:
                own = issued if scenario != "server" else 0
                differences.append(complete - own - (end - scheduled))
    return timeline, {
        "queries": len(differences),
        "median_difference_ns": median(differences) if differences else None,
        "largest_difference_ns": max(differences, key=abs) if differences else None,
    }
