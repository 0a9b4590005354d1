"""A search end to end with the real agent: what it tries, keeps, and goes on with when killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebench.errors import BuildError, NotMeasuredError, RecipeError, UnknownNameError
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.main import Job, connect, read_run
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.results import checked_device
from edgebench.pipeline.search import SearchJob
from edgebench.pipeline.target_probe import TargetProbe
from edgebench.recipe import load_recipe
from edgebench.target import load_target
from edgebench.transports.local import LocalTransport

# What a chain weighs and how it answers is the same every time: so is the whole search.
RECIPE = """
model: lenet
model_options: {width: 0.25}
data: digits
data_limits: {train: 300, test: 100, validation: 100}
training: {epochs: 3, batch_size: 32, learning_rate: 3.0e-3}
search:
  trials: 5
  objectives: [compressed_size_ratio, accuracy_delta_pp]
  keep: 2
  chains:
    sparse: [{technique: prune-unstructured, ratio: {choose: [0.3, 0.6, 0.9]}}]
    half: [{technique: cast}]
controls: {independent: 1}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: accuracy_delta_pp, min: -15.0}
  - {metric: functional_preservation, min: -1.0}
  - {metric: latency_ratio, max: 9.0}
seed: 0
"""
OPEN = "search.chains.sparse.0.ratio"


class Watcher(Silent):
    """Remembers what was said, and which steps were made or found."""

    def __init__(self):
        self.lines = []
        self.steps = []
        self._step = ""

    def begin(self, step, total=None):
        self._step = step

    def end(self, *, reused=False):
        self.steps.append((self._step, reused))

    def say(self, line):
        self.lines.append(line)

    @property
    def built(self):
        """The steps of the store: made (False) or found (True)."""
        return [reused for step, reused in self.steps if ": " in step and "measure" not in step]


def job(folder, *settings, kind=SearchJob):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(str(path), settings=list(settings))
    return kind(recipe, load_target("cpu"), RunFolder(folder / "run"), Watcher())


def searched(folder, *settings):
    """A search without what follows: what was found is neither measured again nor judged."""
    one = job(folder, *settings)
    transport = connect(one.target)
    with one.folder.held():
        one.prepare(checked_device(transport.probe(), where="cpu"), transport)
    return one


def chains(search):
    return [trial.chain for trial in search.trials]


def deterministic(search):
    """All that a clock has no part in."""
    clocked = {"latency", "load", "first", "peak", "throughput"}
    return [
        trial.model_copy(
            update={
                "metrics": {
                    n: v for n, v in trial.metrics.items() if n.split("_")[0] not in clocked
                }
            }
        )
        for trial in search.trials
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared_cache):
    """One finished search that tests may read but not change."""
    folder = tmp_path_factory.mktemp("search")
    one = job(folder)
    before = os.environ.get("EDGEBENCH_STORE")
    os.environ["EDGEBENCH_STORE"] = str(folder / "history.sqlite")
    try:
        run = one.run()
    finally:
        if before is not None:
            os.environ["EDGEBENCH_STORE"] = before
    return run, folder / "run", one.progress


def test_every_chain_was_tried_once_and_the_search_ended(finished):
    run, _, _ = finished
    # Three ratios and the half: a fifth trial would be one of them again.
    assert len(run.search.trials) == 4
    assert len({json.dumps(chain) for chain in chains(run.search)}) == 4
    assert "the search ended after 4 of 5 trials: it found no other chain" in run.warnings


def test_what_is_known_of_a_trial(finished):
    run, _, _ = finished
    for trial in run.search.trials:
        assert {
            "latency_ratio",
            "latency_p50_ms",
            "throughput_per_s",
            "load_ms",
            "peak_memory_mib",
            "size_bytes",
            "compressed_bytes",
            "parameters",
            "sparsity",
            "size_ratio",
            "accuracy",
            "accuracy_delta_pp",
            "functional_preservation",
            "sqnr_db",
        } <= set(trial.metrics)
        if trial.name == "sparse":
            assert trial.metrics["sparsity"] == pytest.approx(trial.chain[0]["ratio"], abs=0.1)
    (half,) = (trial for trial in run.search.trials if trial.name == "half")
    assert 0.4 < half.metrics["size_ratio"] < 0.8


def test_the_best_of_the_front_became_variants(finished):
    run, folder, _ = finished
    front = [trial for trial in run.search.trials if trial.on_front]
    kept = [trial for trial in front if trial.variant]
    assert 1 <= len(kept) <= 2
    best = min(front, key=lambda trial: trial.metrics["compressed_size_ratio"])
    assert best in kept
    names = [v.name for v in run.variants]
    assert names[:2] == ["base", "independent-1"]
    assert sorted(names[2:]) == sorted(trial.variant for trial in kept)
    for trial in kept:
        variant = run.variant(trial.variant)
        assert variant.verdict is not None
        assert [step["technique"] for step in variant.chain] == [
            step["technique"] for step in trial.chain
        ]
        # Built once: the size that was tried is the size that was judged.
        assert variant.metrics["size_bytes"] == trial.metrics["size_bytes"]
    assert run == read_run(RunFolder(folder))


def test_the_recipe_stays_what_the_user_wrote(finished):
    run, _, _ = finished
    assert run.recipe["variants"] == {}
    assert run.recipe["search"]["chains"]["sparse"][0]["ratio"] == {"choose": [0.3, 0.6, 0.9]}


def test_what_a_watcher_sees(finished):
    run, _, watcher = finished
    first = run.search.trials[0]
    drawn = f" (ratio {first.chain[0]['ratio']})" if first.name == "sparse" else ""
    assert watcher.lines[0] == f"trial 1 of 5: {first.name}{drawn}"
    assert watcher.lines[1].startswith("  compressed size ratio ")
    assert "accuracy change" in watcher.lines[1]
    assert watcher.lines[1].endswith(("within the limits", "pp ≥ -15"))
    assert not any("training examples" in warning for warning in run.warnings)


def start(folder):
    command = [sys.executable, "-m", "edgebench", "search", str(folder / "small.yaml")]
    return subprocess.Popen(
        [*command, "--out", str(folder / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_killed_twice_it_ends_as_if_it_had_not_been(finished, tmp_path):
    whole = finished[0]
    job(tmp_path)  # writes the recipe
    journal = tmp_path / "run" / RunFolder.TRIALS
    kept = []
    for wanted in (1, 2):
        process = start(tmp_path)
        deadline = time.monotonic() + 120
        # A line for the study, three for what it is, one for each trial.
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4 + wanted:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept.append(journal.read_bytes())
    assert kept[1].startswith(kept[0])
    last = searched(tmp_path)
    assert last.progress.lines[0].startswith("going on with the unfinished run")
    assert last.progress.lines[1].endswith("of 5 trials are done already")
    assert journal.read_bytes().startswith(kept[1])
    assert deterministic(last.searched) == deterministic(whole.search)


def test_a_second_search_trains_nothing_and_measures_everything_again(finished, tmp_path):
    first = searched(tmp_path, "search.trials=2", "search.keep=1")
    first.folder.finish()
    # Longer: the same chains first, and others after them.
    second = searched(tmp_path, "search.trials=3", "search.keep=1")
    assert second.progress.lines[0].startswith("trial 1 of 3")
    assert chains(second.searched)[:2] == chains(first.searched)
    assert len(chains(second.searched)) == 3
    assert second.progress.built
    assert all(second.progress.built)
    latencies = [
        [trial.metrics["latency_ratio"] for trial in one.searched.trials[:2]]
        for one in (first, second)
    ]
    assert latencies[0] != latencies[1]
    # That one was not finished: it is made longer, and what was measured stands.
    journal = (tmp_path / "run" / RunFolder.TRIALS).read_bytes()
    third = searched(tmp_path, "search.trials=4", "search.keep=2")
    assert third.progress.lines[1] == "3 of 4 trials are done already"
    assert (tmp_path / "run" / RunFolder.TRIALS).read_bytes().startswith(journal)
    assert chains(third.searched) == chains(finished[0].search)
    assert deterministic(third.searched)[:3] == [
        one.model_copy(update={"on_front": now.on_front, "variant": now.variant})
        for one, now in zip(deterministic(second.searched), third.searched.trials[:3], strict=True)
    ]


def test_one_objective_variants_beside_and_limits_that_nothing_meets(finished, tmp_path):
    one = searched(
        tmp_path,
        "search.trials=2",
        "search.objectives=[size_ratio]",
        "gates.2.max=0.01",
        "variants={mine: [{technique: cast}]}",
    )
    assert not any(trial.within or trial.on_front for trial in one.searched.trials)
    (kept,) = (trial for trial in one.searched.trials if trial.variant)
    (said,) = one.warnings
    assert said == f"no chain of 2 met the limits in the search; {kept.variant} came nearest"
    assert [planned.name for planned in one.planned] == ["mine", kept.variant]
    assert list(one.recipe.variants) == ["mine"]


def test_chains_that_fail_do_not_end_it_and_borrowed_examples_are_told(finished, tmp_path):
    wrong = "search.chains.sparse.0.layers=[no_such_layer]"
    one = searched(tmp_path, "search.trials=4", "data_limits.validation=null", wrong)
    assert [t.name for t in one.searched.trials if t.problem is None] == ["half"]
    bad = next(t for t in one.searched.trials if t.problem)
    assert "no_such_layer" in bad.problem
    assert bad.metrics == {}
    assert any(line.startswith("  failed: ") for line in one.progress.lines)
    assert any(
        w.startswith("the search judged its chains on 300 training examples, since none are held")
        for w in one.warnings
    )


def test_where_every_chain_fails_the_next_search_tries_again(finished, tmp_path):
    settings = (
        "search.trials=1",
        "search.chains={sparse: [{technique: prune-unstructured, ratio: 0.5, layers: [gone]}]}",
    )
    for _ in range(2):
        with pytest.raises(BuildError, match="none of 1 chains could be built") as caught:
            searched(tmp_path, *settings)
        assert "gone" in caught.value.line()
        assert not (tmp_path / "run" / RunFolder.TRIALS).exists()


def breaking(monkeypatch, at):
    """A target whose measurements numbered `at` fail; from 0, which is base alone.

    A fake: a wire that breaks at a chosen moment cannot be had otherwise.
    """
    real, calls = LocalTransport.measure, []

    def measure(self, bundle, results, on_event):
        calls.append(bundle)
        if len(calls) - 1 in at:
            raise NotMeasuredError("the connection dropped")
        real(self, bundle, results, on_event)

    monkeypatch.setattr(LocalTransport, "measure", measure)


def test_a_target_that_goes_away_ends_it_and_one_that_returns_goes_on(
    finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as gone:
        breaking(gone, at={2})
        gone.setattr(TargetProbe, "reached", lambda self: False)
        with pytest.raises(NotMeasuredError, match="the connection dropped"):
            searched(tmp_path, "search.trials=2")
    again = searched(tmp_path, "search.trials=2")
    assert again.progress.lines[1] == "1 of 2 trials are done already"
    assert all(trial.problem is None for trial in again.searched.trials)


def test_a_chain_that_brings_the_target_down_is_its_own_fault(finished, tmp_path, monkeypatch):
    # Twice the first chain, once the second: that one is measured again.
    breaking(monkeypatch, at={1, 2, 3})
    first, second = searched(tmp_path, "search.trials=2").searched.trials
    assert first.problem == "it cannot be measured: the connection dropped"
    assert second.problem is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("search.objectives=[latency]",), "unknown metric 'latency'"),
        (("search.objectives=[energy_mj]",), "'energy_mj' is not known while searching"),
        (("gates.0.metric=accuracy_over_reference_pp",), "is not known while searching"),
        (("controls.independent=0",), "'functional_preservation' needs an independent control"),
        (("variants={trial-3: [{technique: cast}]}",), "'trial-3' is what the search calls"),
        ((f"{OPEN}={{choose: [0.5, 2]}}",), "ratio"),
        ((f"{OPEN}={{from: 0.1, to: 1.5}}",), "ratio"),
        (("search.chains.half.0.dtype={choose: [fp16, fp17, bf16]}",), "fp17"),
        (("search.chains.half.0.technique=casd",), "unknown technique 'casd'"),
        (("search.chains.half.0.colour=red",), "unknown key 'colour'"),
    ],
)
def test_said_before_any_work(tmp_path, settings, said):
    with pytest.raises((RecipeError, UnknownNameError)) as caught:
        job(tmp_path, *settings)
    assert said in caught.value.line()
    assert "\n" not in caught.value.line()
    assert not (tmp_path / "run").exists()


def test_a_value_that_only_fits_with_some_others_is_no_mistake(tmp_path):
    # Finite groups take a pattern instead of a ratio: each is possible with one of the others.
    job(
        tmp_path,
        "search.chains.sparse.0.ratio={choose: [null, 0.5]}",
        "search.chains.sparse.0.pattern={choose: ['2:4', null]}",
    )


def test_a_value_that_fits_only_between_the_first_and_the_last_of_the_others_is_no_mistake(
    tmp_path,
):
    chain = "search.chains.student={}"
    steps = "[{technique: distill, loss: {choose: [logits, dkd, crd]}, dkd: {choose: %s}}]"
    job(tmp_path, chain.format(steps % "[null, {beta: 4}]"))
    with pytest.raises(RecipeError, match="beta"):
        job(tmp_path, chain.format(steps % "[null, {beta: -4}]"))


def test_search_and_run_know_each_other(tmp_path):
    with pytest.raises(RecipeError, match="use 'edgebench search'"):
        job(tmp_path, kind=Job)
    with pytest.raises(RecipeError, match="there is nothing to search") as caught:
        job(tmp_path, "search=null", "variants={a: [{technique: cast}]}")
    assert "edgebench run" in caught.value.line()


def test_without_a_target_there_is_no_search(tmp_path):
    one = job(tmp_path)
    with one.folder.held(), pytest.raises(NotMeasuredError, match="cannot be reached"):
        one.prepare(None)


def test_the_shipped_recipe_is_one_to_search_with(tmp_path):
    recipe = load_recipe("search-quickstart")
    SearchJob(recipe, load_target("cpu"), RunFolder(tmp_path / "run"), Watcher())
    assert Path(recipe.where).read_text().startswith("# ")
