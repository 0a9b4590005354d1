"""What a reader is warned of before the table: what was noted while building, and what failed."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.judging import judge_folder
from edgebench.pipeline.main import read_build
from edgebench.records import BuildRecord, RunRecord
from edgebench.report.html import render_html
from edgebench.report.terminal import summary

Finished = tuple[RunRecord, Path]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished[1], tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def noting(build: BuildRecord, name: str, *notes: str) -> BuildRecord:
    variants = tuple(
        v.model_copy(update={"notes": (*v.notes, *notes)}) if v.name == name else v
        for v in build.variants
    )
    return build.model_copy(update={"variants": variants})


def guess(folder: RunFolder, *names: str) -> None:
    """Let networks answer with one class, whatever they see."""
    for name in names:
        path = folder.results / name / "outputs.npy"
        np.save(path, np.tile(np.eye(10, dtype=np.float32)[3], (len(np.load(path)), 1)))


def guessing(folder: RunFolder, build: BuildRecord | None = None) -> list[str]:
    run = judge_folder(folder, build or read_build(folder), [], [])
    found = [w for w in run.warnings if "no better than guessing" in w]
    # Once: a control that guesses has learned less as well.
    named = [w.partition(" ")[0] for w in run.warnings]
    assert all(named.count(w.partition(" ")[0]) == 1 for w in found)
    return found


def test_a_note_of_warning_is_a_warning_of_the_run_and_told_once(copy: RunFolder) -> None:
    told = "the student has 9 parameters, its teacher 7: the student is larger than its teacher"
    build = noting(read_build(copy), "chain", f"warning: {told}", "an ordinary note")
    run = judge_folder(copy, build, [], [])
    assert run.warnings.count(f"chain: {told}") == 1
    chain = run.variant("chain")
    assert chain is not None
    assert chain.notes[-1] == "an ordinary note"
    assert not any("larger than its teacher" in note for v in run.variants for note in v.notes)
    assert render_html(run).count("the student is larger than its teacher") == 1


def test_the_terminal_tells_it(copy: RunFolder) -> None:
    build = noting(read_build(copy), "chain", "warning: the chain does not get smaller")
    stream = io.StringIO()
    shown = summary(judge_folder(copy, build, [], []), 160)
    Console(file=stream, width=160, color_system=None).print(shown)
    assert "note: chain: the chain does not get smaller" in stream.getvalue()


def test_a_network_that_only_guesses_is_named_with_what_to_do(copy: RunFolder) -> None:
    assert guessing(copy) == []
    guess(copy, "independent-1", "int8", "chain", "chain.reference")
    share = f"({np.mean(labels(copy) == 3):.1%} of 10 classes)"
    trained = f"no better than guessing {share}: its training failed; lower the learning rate"
    assert sorted(guessing(copy)) == [
        f"chain answers {trained}",
        f"chain.reference answers {trained}",
        f"independent-1 answers {trained}",
        f"int8 answers no better than guessing {share}",
    ]


def test_a_base_that_only_guesses_stands_for_what_was_made_of_it(copy: RunFolder) -> None:
    guess(copy, "base", "int8", "chain", "independent-1")
    found = guessing(copy)
    assert [text.partition(" ")[0] for text in found] == ["base", "independent-1"]
    assert all(text.endswith("its training failed; lower the learning rate") for text in found)


def test_a_base_that_nobody_trained_here_is_given_no_advice(copy: RunFolder) -> None:
    guess(copy, "base")
    build = read_build(copy)
    stages = tuple(stage for stage in build.stages if stage.name != "train base")
    [found] = guessing(copy, build.model_copy(update={"stages": stages}))
    assert found.startswith("base answers no better than guessing (")
    assert found.endswith(" of 10 classes)")


def test_where_the_classes_are_not_known_nothing_is_said(copy: RunFolder) -> None:
    guess(copy, "base")
    build = read_build(copy)
    data = {key: value for key, value in build.data.items() if key != "classes"}
    assert guessing(copy, build.model_copy(update={"data": data})) == []


def labels(folder: RunFolder) -> np.ndarray:
    from edgebench.data import load

    build = read_build(folder)
    return load("digits", seed=int(build.recipe["seed"])).test_y
