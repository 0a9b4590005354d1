"""What the harness adds to the agent: bare loops, delays, loads, models, and others' loops."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_truth_is_told_by_process() -> None:
    from benchmarks.harness.truth import compare

    turns = [[1010.0, 1000.0, 2000.0, 50.0, 9.0], [1030.0, 1000.0, 2020.0, 70.0, 9.0]]
    # The last one asked query by query, as the controls do: it is another kind of sample.
    other = [5000.0, 1000.0, 1990.0, 60.0, 1.0]
    rows = [np.array([*turns, [990.0, 1000.0, 1990.0, 60.0, 9.0], other])] * 6
    found = compare(rows)
    assert found["ratio"]["point"] == pytest.approx(1.01)
    assert found["added_us"]["point"] == pytest.approx(0.01)
    assert found["over_run_us"]["point"] == pytest.approx(-0.99)
    assert found["between_us"]["point"] == pytest.approx(0.06)
    assert (found["agent_us"], found["bare_us"], found["run_us"]) == (1.01, 1.0, 2.0)
    assert found["blocks"] == 18


def test_the_bare_loops_call_the_session_that_the_agent_bound(tmp_path: Path) -> None:
    from benchmarks.harness.altered_worker import Altered, BareLoops
    from benchmarks.harness.models import SUBJECTS, examples
    from edgebench.agent import measure

    SUBJECTS["dense-5us"].write(tmp_path / "base.onnx")
    bare = BareLoops(tmp_path)
    model = Altered({}, bare).load(tmp_path / "base.onnx", ["CPUExecutionProvider"], 1, {})
    feed = [examples(SUBJECTS["dense-5us"], 1)]
    answer = model.infer(feed)
    query = model.bind(feed, answer)
    # The binding is the agent's own: a bare call leaves its answer where the agent reads it.
    bound, plain = bare._of[query]
    assert bound(2) > 0
    np.testing.assert_array_equal(query.read()[0], answer[0])
    assert plain(2) > 0
    for _ in range(3):
        start, samples, last = bare.time_block(measure.Arm(query, [feed, feed]), 4, 0.0)
        assert start > 0
        assert len(samples) == 1
        assert last == 0
    bare.save()
    (file,) = tmp_path.glob("*.npy")
    rows = np.load(file)
    assert rows.shape == (3, 5)
    assert (rows[:, 4] == 4).all()
    assert (rows[:, :3] > 0).all()


def test_a_tail_is_not_told_from_too_few_queries() -> None:
    from benchmarks.harness.omission import quantiles

    few = quantiles(np.ones(600))
    assert few["p50_ms"] == 1.0
    assert few["p99_ms"] is None
    many = quantiles(np.concatenate([np.ones(950), np.full(50, 100.0)]))
    assert many["p99_ms"] == 100.0
    assert many["late_share"] == pytest.approx(0.05)


def test_a_counted_spin_is_calibrated_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import delays

    # A clock that counts what is run: 100 ns a query, 10 ns for the frame around it, 5 ns a turn.
    now = [0]

    def query(bound: object) -> None:
        assert bound == "the binding"
        now[0] += 100

    def with_turns(run: delays.Run, turns: int) -> delays.Run:
        def slower(bound: object) -> None:
            run(bound)
            now[0] += 10 + 5 * turns

        return slower

    monkeypatch.setattr(delays.time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(delays, "_with_turns", with_turns)
    slower = delays.delayed(query, "spin:500", "the binding")
    before = now[0]
    slower("the binding")
    assert now[0] - before == 600
    with pytest.raises(ValueError, match="no such delay"):
        delays.delayed(query, "sleep:1")


def test_a_counted_spin_turns_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import delays

    turned: list[int] = []
    monkeypatch.setattr(delays, "repeat", lambda _, times: turned.append(times) or range(times))
    ran: list[object] = []
    delays._with_turns(ran.append, 7)("the binding")
    assert (ran, turned) == (["the binding"], [7])


def test_the_slower_arm_is_called_as_the_agents_own(tmp_path: Path) -> None:
    from benchmarks.harness.altered_worker import Altered
    from benchmarks.harness.models import SUBJECTS, examples

    path = tmp_path / "slower.onnx"
    SUBJECTS["identity"].write(path)
    feed = (examples(SUBJECTS["identity"], 1),)
    for delays, alike in (({}, True), ({"slower": "spin:5000"}, False)):
        model = Altered(delays, None).load(path, ["CPUExecutionProvider"], 1, {})
        query = model.bind(feed, model.infer(feed))
        # Nothing between the loop and the delay that base has not: the binding is handed through.
        assert (query.call == model._session.run_with_iobinding) is alike
        assert type(query.bound).__name__ == "IOBinding"
        query.run()
        np.testing.assert_array_equal(query.read()[0], model.infer(feed)[0])


def test_a_share_is_taken_of_the_median_call_of_the_loop_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks.harness import delays

    now = [0]

    def clock() -> int:
        now[0] += 10
        return now[0]

    def run(bound: object = None) -> None:
        now[0] += 1_000_000

    monkeypatch.setattr(delays.time, "perf_counter_ns", clock)
    assert delays.median_call_ns(run) == 1_000_010
    slower = delays.delayed(run, "share:0.03")
    start = now[0]
    slower()
    assert now[0] - start == pytest.approx(1_030_000, rel=1e-4)
    # Both arms are timed, and so warmed; the first one is not slowed down.
    before = now[0]
    assert delays.delayed(run, "share:0") is run
    assert now[0] > before


def test_a_clocked_spin_lasts_as_long_as_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import delays

    reads = itertools.count(step=1000)
    monkeypatch.setattr(delays.time, "perf_counter_ns", lambda: next(reads))
    delays.delayed(lambda bound: None, "spin:50000")()
    # 1000 ns a reading: 50 of them after the first, and the one that ends it.
    assert next(reads) == 51_000


def test_bursts_are_those_of_their_seed() -> None:
    from benchmarks.harness.noise import OFF_S, ON_S, burst_lengths

    first = list(itertools.islice(burst_lengths(3), 50))
    assert first == list(itertools.islice(burst_lengths(3), 50))
    assert first != list(itertools.islice(burst_lengths(4), 50))
    assert all(ON_S[0] <= on <= ON_S[1] and OFF_S[0] <= off <= OFF_S[1] for on, off in first)


def test_a_loaded_machine_needs_a_second_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import noise

    monkeypatch.setattr(noise.os, "sched_getaffinity", lambda pid: {0})
    with pytest.raises(noise.NoiseError, match="second processor"), noise.condition("loaded", 0, 0):
        pass


def test_the_models_are_what_the_runtime_takes(tmp_path: Path) -> None:
    import onnxruntime

    from benchmarks.harness.models import SUBJECTS, examples

    for name in ("identity", "dense-5us", "lenet", "separable-200us"):
        subject = SUBJECTS[name]
        subject.write(tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(
            str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
        )
        (answer,) = session.run(None, {"x": examples(subject, 3)})
        assert len(answer) == 3
        assert np.isfinite(answer).all()


def test_the_others_loops_count_what_they_say() -> None:
    from benchmarks.harness.arms import in_process

    calls: list[int] = []
    in_process.olive(lambda: calls.append(1))
    assert len(calls) == 30
    calls.clear()
    in_process.onnxruntime_perf_test(lambda: calls.append(1))
    assert len(calls) == 1001
    calls.clear()
    in_process.optimum_benchmark(lambda: calls.append(1), duration_s=0.0)
    assert len(calls) == 21


def test_a_bundle_is_one_the_agent_takes(tmp_path: Path) -> None:
    from benchmarks.harness.measuring import write_bundle
    from benchmarks.harness.models import SUBJECTS
    from edgebench.agent.bundle import open_bundle
    from edgebench.protocol import PROFILES

    folder = write_bundle(
        tmp_path / "b",
        SUBJECTS["lenet"],
        ["base", "slower"],
        PROFILES["quick"],
        seed=3,
        cpu=0,
        timed=["slower"],
        looked_at_twice=["slower"],
    )
    bundle = open_bundle(folder, tmp_path / "scratch")
    assert [(m["name"], m["timed"]) for m in bundle.models] == [("base", False), ("slower", True)]
    assert json.loads((folder / "manifest.json").read_text())["protocol"]["cpu"] == [0]
    limits = [m["limits"].get("latency_ratio") for m in bundle.models]
    assert limits == [None, {"min": None, "max": 1.0}]
