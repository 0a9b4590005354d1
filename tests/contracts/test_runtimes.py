"""What every runtime of the agent must do, over the table of runtimes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Model, Runtime

if TYPE_CHECKING:
    from edgebench.agent.runtimes.base import Answer


def _models() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "runtime_models", Path(__file__).with_name("runtime_models.py")
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODELS = _models()


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found = RUNTIMES[request.param]
    pytest.importorskip(found.package, reason=f"{found.title} is not installed")
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Runtime], Path]:
    made: dict[str, Path] = {}

    def get(runtime: Runtime) -> Path:
        if runtime.suffix not in made:
            made[runtime.suffix] = tmp_path_factory.mktemp("models")
            MODELS.write(made[runtime.suffix], runtime.suffix)
        return made[runtime.suffix]

    return get


@pytest.fixture
def load(runtime: Runtime, folder: Callable[[Runtime], Path]) -> Callable[..., Model]:
    def loaded(name: str = "network", threads: int = 1) -> Model:
        path = folder(runtime) / f"{name}{runtime.suffix}"
        return runtime.load(path, [runtime.processor], threads, {})

    return loaded


def _same(found: Answer, wanted: Answer, tolerance: float = 1e-5) -> bool:
    return len(found) == len(wanted) and all(
        f.shape == w.shape and np.allclose(f, w, rtol=0, atol=tolerance)
        for f, w in zip(found, wanted, strict=True)
    )


def _expected(x: np.ndarray) -> np.ndarray:
    """The network in numpy."""
    weights = MODELS.weights()
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    features = np.einsum("ncijkl,ockl->noij", windows, weights["conv.weight"])
    features = np.maximum(features + weights["conv.bias"][:, None, None], 0)
    return features.reshape(len(x), -1) @ weights["head.weight"].T + weights["head.bias"]


def test_the_table_is_by_name_and_says_what_it_needs() -> None:
    for name, found in RUNTIMES.items():
        assert found.name == name
        assert found.title
        assert found.package
        assert found.suffix.startswith(".")
        assert found.processor not in found.accelerators


def test_the_table_imports_no_runtime() -> None:
    packages = sorted(found.package for found in RUNTIMES.values())
    code = (
        "import sys; import edgebench.agent.runtimes; "
        f"print([p for p in {packages!r} if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_providers(runtime: Runtime) -> None:
    assert runtime.version()[0].isdigit()
    assert runtime.processor in runtime.offered()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_are_those_of_numpy_at_any_batch(load: Callable[..., Model], count: int) -> None:
    x = MODELS.examples(count)
    answer = load().infer((x,))
    assert [a.dtype for a in answer] == [np.float32]
    assert _same(answer, (_expected(x),), 1e-4)


def test_all_runtimes_answer_alike(folder: Callable[[Runtime], Path]) -> None:
    x = MODELS.examples(4)
    answers = {}
    for name, found in RUNTIMES.items():
        if importlib.util.find_spec(found.package) is None:
            continue
        path = folder(found) / f"network{found.suffix}"
        answers[name] = found.load(path, [found.processor], 1, {}).infer((x,))
    if len(answers) < 2:
        pytest.skip("only one runtime is installed")
    first = next(iter(answers.values()))
    assert all(_same(answer, first, 1e-5) for answer in answers.values()), answers.keys()


def test_inputs_and_outputs_are_described(load: Callable[..., Model], runtime: Runtime) -> None:
    model = load()
    assert [(s.dtype, s.shape) for s in model.inputs] == [("float32", [None, 3, 8, 8])]
    assert [(s.dtype, s.shape) for s in model.outputs] == [("float32", [None, MODELS.CLASSES])]
    assert model.fixed_batch is None
    assert model.providers == [runtime.processor]


def test_a_fixed_batch_is_told(load: Callable[..., Model]) -> None:
    model = load("fixed")
    assert model.fixed_batch == 2
    x = MODELS.examples(2)
    assert _same(model.infer((x,)), (_expected(x),), 1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_a_bound_query_answers_as_infer_does(load: Callable[..., Model], count: int) -> None:
    model, feed = load(), (MODELS.examples(count),)
    answer = model.infer(feed)
    query = model.bind(feed, answer)
    query.run()
    assert _same(query.read(), answer, 0 if count == 1 else 1e-6)


def test_buffers_are_bound_once(load: Callable[..., Model]) -> None:
    model = load()
    feeds = [(MODELS.examples(1, seed),) for seed in (1, 2, 3)]
    answers = [model.infer(feed) for feed in feeds]
    query = model.bind(feeds[0], answers[0])
    for feed, wanted in [*zip(feeds, answers, strict=True), (feeds[0], answers[0])]:
        query.write(feed)
        query.run()
        assert _same(query.read(), wanted, 1e-6)
    assert not _same(answers[0], answers[1], 1e-3)


def test_read_gives_copies_and_the_callers_arrays_stay_theirs(load: Callable[..., Model]) -> None:
    model, first, second = load(), (MODELS.examples(1, 1),), (MODELS.examples(1, 2),)
    kept = first[0].copy()
    query = model.bind(first, model.infer(first))
    query.run()
    before = query.read()
    copy = tuple(array.copy() for array in before)
    query.write(second)
    query.run()
    assert _same(before, copy, 0)
    assert (first[0] == kept).all()


def test_two_queries_of_one_model_do_not_share_buffers(load: Callable[..., Model]) -> None:
    model, first, second = load(), (MODELS.examples(1, 1),), (MODELS.examples(1, 2),)
    wanted = model.infer(first)
    one, other = model.bind(first, wanted), model.bind(second, wanted)
    one.run()
    other.run()
    assert _same(one.read(), wanted, 1e-6)


def test_several_inputs_and_outputs_of_several_types(load: Callable[..., Model]) -> None:
    model = load("pair")
    a = np.array([[0.5, 1, 2, 9]] * 3, dtype=np.float32)
    b = np.arange(12, dtype=np.int64).reshape(3, 4)
    wanted = (a + b, b * b, a > b)
    answer = model.infer((a, b))
    assert [x.dtype.kind for x in answer] == ["f", "i", "b"]
    assert _same(answer, wanted)
    query = model.bind((a, b), answer)
    query.write((a + 1, b + 2))
    query.run()
    assert _same(query.read(), (a + b + 3, (b + 2) ** 2, a + 1 > b + 2))


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        ((), "takes 1 inputs, and was given 0"),
        ((np.zeros((1, 3, 9, 8), np.float32),), "takes [N, 3, 8, 8], and was given [1, 3, 9, 8]"),
        ((np.zeros((1, 3, 8, 8), np.complex64),), "takes float32, and was given complex64"),
    ],
)
def test_a_feed_that_does_not_fit_is_one_line(
    load: Callable[..., Model], feed: Answer, says: str
) -> None:
    with pytest.raises(ModelFailedError) as caught:
        load().infer(feed)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_model_is_one_line(
    runtime: Runtime, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / f"wrong{runtime.suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFailedError) as caught:
        runtime.load(path, [runtime.processor], 1, {})
    assert runtime.title.split()[0].lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_not_there_is_one_line(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ModelFailedError) as caught:
        runtime.load(tmp_path / f"none{runtime.suffix}", [runtime.processor], 1, {})
    assert "\n" not in str(caught.value)


def test_an_inspection_tells_where_operators_ran(
    runtime: Runtime, folder: Callable[[Runtime], Path]
) -> None:
    path = folder(runtime) / f"network{runtime.suffix}"
    feed = (MODELS.examples(2),)
    found = runtime.inspect(path, [runtime.processor], 1, {}, feed)
    if found is None:
        pytest.skip(f"{runtime.title} cannot tell")
    assert set(found.nodes) == {runtime.processor}
    assert sum(found.nodes[runtime.processor].values()) >= 2
    assert any("conv" in operator.lower() for operator in found.nodes[runtime.processor])
    assert found.integer_operators == {}
    assert found.optimised is not None
    assert _same(found.optimised, (_expected(feed[0]),), 1e-4)
