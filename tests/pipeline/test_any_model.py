"""Models of several inputs or outputs, none of them a classifier, the whole way."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from edgebench.errors import BuildError, DataError, EdgebenchError, ModelError, RecipeError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.source import find_model
from edgebench.pipeline.comparing_runs import compare_runs
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.ingest import ingest_results
from edgebench.pipeline.judging import judge_again
from edgebench.pipeline.main import Job
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.task import AnyAnswers, load_task
from edgebench.recipe import Gate, load_recipe
from edgebench.records import RunRecord
from edgebench.target import load_target
from edgebench.techniques.base import Context
from edgebench.transports.bundle import pack

GENERIC = {"sqnr_db", "output_cosine", "mean_relative_error", "largest_relative_error"}
NETS = '''
import torch
from torch import nn


class Price(nn.Module):
    """An image and a vector to one number."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(1, 8, 3), nn.Linear(4, 8), nn.Linear(16, 1)

    def forward(self, image, size):
        seen = torch.relu(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([seen, torch.relu(self.dense(size))], 1))


class Maps(nn.Module):
    """A token sequence to a number for each token, and one for all."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.each, self.all = nn.Linear(8, 6), nn.Linear(8, 2)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return {"each": self.each(hidden), "all": self.all(hidden.mean(1))}
'''
RECIPE: dict[str, Any] = {
    "model": "any_nets:Price",
    "data": "price.npz",
    "variants": {
        "half": [{"technique": "cast"}],
        "sparse": [{"technique": "prune-unstructured", "ratio": 0.5}],
        "tuned": [{"technique": "prune-unstructured", "ratio": 0.5, "finetune": {"epochs": 1}}],
    },
    "protocol": {"processes": 1, "pairs": 6, "block_s": 0.01, "warmup_s": 0.01,
                 "warmup_cap_s": 0.05},
    "gates": [{"metric": "sqnr_db", "min": 40}],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with networks and data."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    with importable(tmp_path):
        yield tmp_path


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """`any_nets` is that of `folder`.

    Not by monkeypatch: it would also take back what ONNX Runtime adds to the path meanwhile, and
    needs later.
    """
    sys.modules.pop("any_nets", None)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("any_nets", None)


def fill(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "any_nets.py").write_text(NETS)
    # As a user would: in another order than forward's, and in numpy's own type.
    np.savez(folder / "price.npz", size=rng.normal(size=(60, 4)), image=rng.random((60, 1, 8, 8)))
    np.savez(folder / "tokens.npz", tokens=rng.integers(0, 30, (40, 5)))


def job(folder: Path, **changed: Any) -> Job:
    path = folder / "any.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changed}))
    return Job(load_recipe(str(path)), load_target("cpu"), RunFolder(folder / "run"), Silent())


@pytest.fixture(scope="module")
def price(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[RunRecord, Path]:
    """A finished run on two inputs that tests may read but not change."""
    folder = tmp_path_factory.mktemp("price")
    fill(folder)
    with pytest.MonkeyPatch.context() as patch, importable(folder):
        patch.chdir(folder)
        patch.setenv("EDGEBENCH_STORE", str(folder / "history.sqlite"))
        torch.manual_seed(5)
        return job(folder).run(), folder / "run"


def test_two_inputs_go_by_name_in_the_modules_order(price: tuple[RunRecord, Path]) -> None:
    run, folder = price
    assert run.data["called"] == "by name: image, size"
    assert [(i["name"], i["dtype"]) for i in run.data["inputs"]] == [
        ("image", "float32"),
        ("size", "float32"),
    ]
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    assert [i["shape"] for i in manifest["inputs"]] == [[12, 1, 8, 8], [12, 4]]
    assert manifest["answers"] != "classes"
    assert "inputs go to the model by name: image, size" in run.base.notes


def test_answers_are_judged_by_what_is_defined_for_them(price: tuple[RunRecord, Path]) -> None:
    run, folder = price
    assert run.verdict == "GO"
    half, sparse = run.variant("half"), run.variant("sparse")
    assert half is not None
    assert sparse is not None
    assert half.verdict == "GO"
    assert sparse.verdict == "NO-GO"
    assert set(half.comparisons) >= GENERIC
    classes = {"accuracy", "loss", "ece", "functional_preservation", "negative_flips"}
    assert not classes & {*half.metrics, *half.intervals, *half.comparisons}
    assert run.landscape is None
    base, other = (
        np.load(folder / "results" / name / "outputs.npy").astype(float)
        for name in ("base", "half")
    )
    wanted = 10 * np.log10((base**2).sum() / ((base - other) ** 2).sum())
    assert half.comparisons["sqnr_db"].point == pytest.approx(wanted)


def test_base_is_said_to_be_as_its_factory_made_it(price: tuple[RunRecord, Path]) -> None:
    run, _ = price
    assert any("the weights its factory gave it" in line for line in run.warnings)
    assert not any(v.control for v in run.variants)


def test_what_learns_from_labels_fails_alone(price: tuple[RunRecord, Path]) -> None:
    run, _ = price
    tuned = run.variant("tuned")
    assert tuned is not None
    assert tuned.status == "failed"
    assert "there are no labels" in (tuned.problem or "")


def test_every_report_is_written(price: tuple[RunRecord, Path]) -> None:
    _, folder = price
    for name in ("report.html", "report.md", "junit.xml", "metrics.csv"):
        assert "sqnr_db" in (text := (folder / name).read_text()) or "SQNR" in text
    assert "NaN" not in (folder / "run.json").read_text()


def test_a_finished_run_is_judged_again_and_compared(price: tuple[RunRecord, Path]) -> None:
    run, folder = price
    again = judge_again(run, [Gate(metric="output_cosine", min=0.99)], [])
    assert again.variant("half").verdict == "GO"  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"'accuracy' is a metric of classes.*gate on .*sqnr_db"):
        judge_again(run, [Gate(metric="accuracy", min=0.9)], [])
    assert compare_runs(str(folder), str(folder)).kind == "runs"


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"gates": [{"metric": "accuracy_delta_pp", "min": -1}]}, RecipeError, "metric of classes"),
        (
            {"data": "digits", "gates": [{"metric": "output_cosine", "min": 0.9}]},
            RecipeError,
            "'output_cosine' is a metric of other answers than classes",
        ),
        ({"data": "none.npz"}, DataError, "there is no file at this path"),
    ],
)
def test_what_is_refused_before_any_work(
    place: Path, changed: dict[str, Any], kind: type[EdgebenchError], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        job(place, **changed)
    assert "\n" not in caught.value.line()
    assert not (place / "run").exists()


def task(folder: Path, **changed: Any) -> AnyAnswers:
    recipe = job(folder, **changed).recipe
    found = load_task(recipe, find_model(recipe.model, weights=None, options=recipe.model_options))
    assert isinstance(found, AnyAnswers)
    return found


def test_labels_that_are_not_used_are_not_said_to_be_missing(place: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 9)

    def warnings(**more: Any) -> list[str]:
        changed = {"controls": {"independent": 1}, **more}
        recipe = job(place, **changed).recipe
        source = find_model(recipe.model, weights=None, options=recipe.model_options)
        return task(place, **changed).warnings(recipe, source)

    np.savez(
        place / "two.npz", image=rng.random((9, 1, 8, 8)), size=rng.random((9, 4)), labels=labels
    )
    for line in warnings(data="two.npz"):
        assert ": labels are not used for models of several inputs" in line
    np.savez(place / "one.npz", tokens=rng.integers(0, 30, (9, 5)), labels=labels)
    for line in warnings(data="one.npz", model="any_nets:Maps"):
        assert ": labels are used with images [N, C, H, W] alone" in line
    assert len(warnings()) == 2
    assert all(": without labels nothing is trained" in line for line in warnings())


def test_arrays_of_other_names_go_by_their_place(place: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(place / "other.npz", a=rng.random((9, 1, 8, 8)), b=rng.random((9, 4)))
    assert task(place, data="other.npz").called == "by their place in the file: a, b"
    np.savez(place / "near.npz", image=rng.random((9, 1, 8, 8)), sise=rng.random((9, 4)))
    with pytest.raises(DataError, match="no argument 'sise'; did you mean 'size'"):
        task(place, data="near.npz")


@pytest.fixture
def onnx_file(place: Path) -> Path:
    from any_nets import Price  # type: ignore[import-not-found]

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    feed = {
        "image": rng.random((8, 1, 8, 8), dtype=np.float32),
        "size": rng.random((8, 4), dtype=np.float32),
    }
    export_onnx(Price().eval(), feed, place / "price.onnx", opset=18)
    return place / "price.onnx"


def test_an_onnx_file_takes_its_inputs_by_name(place: Path, onnx_file: Path) -> None:
    found = task(place, model="price.onnx")
    assert found.called == "by name: image, size"
    assert [a.dtype for a in found.dataset.test_inputs] == [np.float32, np.float32]
    rng = np.random.default_rng(0)
    for arrays, text in (
        (
            {"image": rng.random((9, 1, 8, 8)), "sise": rng.random((9, 4))},
            "no array 'size'.*'sise'",
        ),
        ({"image": rng.random((9, 1, 8, 8))}, "there is no array 'size'"),
        (
            {"image": rng.random((9, 1, 8, 8)), "size": rng.random((9, 5))},
            r"takes 'size' as \[.*4\]",
        ),
        (
            {"image": rng.random((9, 1, 8, 8)), "size": rng.random((9, 4)), "x": rng.random(9)},
            "the model has no input 'x'",
        ),
    ):
        np.savez(place / "bad.npz", **arrays)
        with pytest.raises(DataError, match=text) as caught:
            task(place, model="price.onnx", data="bad.npz")
        assert "\n" not in caught.value.line()


def test_the_bundle_way(place: Path, onnx_file: Path) -> None:
    """Two inputs of an ONNX file, carried to a device and back, beside a control of its own."""
    work = job(
        place,
        model="price.onnx",
        controls={"files": ["price.onnx"]},
        variants={"half": [{"technique": "cast"}]},
    )
    with work.folder.held():
        work.prepare(None)
        pack(work.folder.bundle, place / "bundle.zip")
    device = place / "device"
    with zipfile.ZipFile(place / "bundle.zip") as archive:
        archive.extractall(device)
    agent = next(device.rglob("agent.pyz"))
    subprocess.run([sys.executable, agent.name], cwd=agent.parent, check=True, capture_output=True)
    run = ingest_results(work.folder, next(device.rglob("results.zip")), [], Silent())
    assert [(v.name, v.status) for v in run.variants] == [
        ("base", "measured"),
        ("independent-1", "measured"),
        ("half", "measured"),
    ]
    control = run.variant("independent-1")
    assert control is not None
    assert control.comparisons["output_cosine"].point == pytest.approx(1)
    assert run.verdict == "GO"


def test_several_outputs_of_a_token_model(place: Path) -> None:
    run = job(
        place,
        model="any_nets:Maps",
        data="tokens.npz",
        variants={"int8": [{"technique": "ptq", "mode": "dynamic"}]},
        controls={"independent": 2},
        gates=[{"metric": "output_cosine", "min": 0.9}],
    ).run()
    assert run.verdict == "GO", [v.problem for v in run.variants]
    assert run.data["outputs"] == [
        {"name": "each", "shape": [5, 6]},
        {"name": "all", "shape": [2]},
    ]
    assert any("no independent control was trained" in line for line in run.warnings)
    int8 = run.variant("int8")
    assert int8 is not None
    assert any("each" in note and "all" in note for note in int8.notes), int8.notes


def test_a_model_whose_answers_do_not_count_the_examples(place: Path) -> None:
    class Sum(nn.Module):
        def forward(self, image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
            return image.sum() + size.sum()

    with pytest.raises(ModelError, match="its first axis has to count them"):
        task(place).check_module(Sum(), where="m")


def test_a_control_with_other_answers_is_refused(place: Path) -> None:
    found = task(place)
    found.outputs = {"output": (1,)}
    with pytest.raises(ModelError, match=r"its answers are 'output' \[N, 3\], and base's are"):
        found.check_module(Wide(), where="m")


class Wide(nn.Module):
    def forward(self, image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return size[:, :3]


def test_the_context_of_such_data(place: Path) -> None:
    data = task(place, data_limits={"validation": 10}).dataset
    made = Context(
        train_x=data.train_x,
        train_y=data.train_y,
        classes=data.classes,
        training=job(place).recipe.training,
        int8="u8s8",
        precisions=["fp32"],
        seed=0,
        new_module=None,
        base=None,
        held_out=True,
        train_inputs=data.train_inputs,
        validation_inputs=data.validation_inputs,
    )
    assert not made.labelled
    assert [tuple(one.shape) for one in made.examples()] == [(2, 1, 8, 8), (2, 4)]
    assert [len(one) for one in made.inputs()] == [38, 38]
    assert [len(one) for one in made.validation_examples()] == [10, 10]
    assert made.decided_on() == "10 examples held out of training"
    for ask in (made.tensors, made.validation):
        with pytest.raises(BuildError, match="there are no labels"):
            ask()
    with pytest.raises(BuildError, match="models of one input, and this one has 2"):
        made.example()
