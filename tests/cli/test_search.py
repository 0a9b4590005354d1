"""`edgebench search` on the command line: what it prints, and what it ends in."""

from __future__ import annotations

import json

import pytest

from edgebench.__main__ import run

RECIPE = """
model: lenet
model_options: {width: 0.25}
data: digits
data_limits: {train: 200, test: 60, validation: 50}
training: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3}
search:
  trials: 9
  chains: {half: [{technique: cast, dtype: {choose: [fp16]}}]}
controls: {independent: 0}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates: [{metric: size_ratio, max: 0.9}]
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def test_it_shows_the_front_and_the_verdicts(capsys, workplace):
    assert run(["search", "r.yaml", "--trials", "1"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "The Pareto front of 1 chain, as the search saw them"
    assert lines[1].split() == ["Trial", "Latency", "ratio", "Accuracy", "change", "Chain"]
    assert lines[2].startswith("trial-1 ")
    assert lines[2].endswith("cast (dtype fp16)")
    assert lines[4].startswith("GO ")
    assert "trial 1 of 1: half (dtype fp16)" in shown.err
    assert (workplace / "runs" / "r-cpu" / "search.journal").exists()
    assert 'id="search"' in (workplace / "runs" / "r-cpu" / "report.html").read_text()
    assert run(["search", "r.yaml", "--trials", "1", "--json"]) == 0
    again = capsys.readouterr()
    assert again.err == ""
    record = json.loads(again.out)
    assert [trial["variant"] for trial in record["search"]["trials"]] == ["trial-1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "quickstart"], "there is nothing to search: the recipe has no 'search'"),
        (["search", "quickstart", "--trials", "3"], "lacks 'search.chains'"),
        (["search", "search-quickstrat"], "did you mean 'search-quickstart'?"),
        (["run", "search-quickstart"], "use 'edgebench search'"),
        (["search"], "Missing argument"),
        (["search", "r.yaml", "--trials", "0"], "greater than or equal to 1"),
        (["search", "r.yaml", "--set", "search.objectives=[speed]"], "unknown metric 'speed'"),
        (["search", "r.yaml", "--set", "search.chains.half.0.dtype={chose: 1}"], "dtype"),
    ],
)
def test_wrong_use_is_one_line(capsys, workplace, arguments, said):
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (workplace / "runs").exists()


def test_the_shipped_search_is_listed(capsys):
    assert run(["list", "recipes"]) == 0
    assert "search-quickstart  A search in two minutes" in capsys.readouterr().out
