from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgebench.errors import DataError, EdgebenchError, ModelError, NotComparableError, UsageError
from edgebench.pipeline.comparison_inputs import (
    Inputs,
    Signature,
    check_alike,
    common_batch,
    inputs_for,
    read_signature,
)
from edgebench.recipe import DataLimits

RELU = "{ y = Relu(x) }"


def model(path: Path, graph: str) -> Path:
    """An ONNX file from ONNX's own text form."""
    text = f'<ir_version: 9, opset_import: ["" : 18]> agraph {graph}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def signature(tmp_path: Path):
    def read(graph: str) -> Signature:
        number = len(list(tmp_path.glob("*.onnx")))
        return read_signature(model(tmp_path / f"m{number}.onnx", graph))[0]

    return read


def make(a: Signature, b: Signature, **changes: object) -> Inputs:
    fields = {"data": None, "limits": DataLimits(), "seed": 0, "sizes": {}, "batch": 1}
    return inputs_for(a, b, **{**fields, **changes})


def test_random_floats_are_normal_and_the_seed_decides(signature) -> None:
    a = signature(f"(float[N,3,8] x) => (float[N,3,8] y) {RELU}")
    (first,) = make(a, a).arrays
    assert (first.shape, first.dtype) == ((64, 3, 8), np.float32)
    assert abs(first.mean()) < 0.1
    assert first.std() == pytest.approx(1, abs=0.1)
    assert np.array_equal(first, make(a, a).arrays[0])
    assert not np.array_equal(first, make(a, a, seed=1).arrays[0])
    assert make(a, a).random
    assert "random (seed 0): x float32 [64, 3, 8] normal" in make(a, a).words


def test_an_index_stays_within_the_rows_it_points_into(signature) -> None:
    graph = (
        "(int64[N,4] ids, int32[N,4] mask) => (float[N,4,2] y, int32[N,4] z)"
        " <float[5,2] table = {0,1,2,3,4,5,6,7,8,9}>"
        " { wide = Cast<to=7>(ids) y = Gather(table, wide) z = Identity(mask) }"
    )
    ids, mask = make(signature(graph), signature(graph)).arrays
    assert (ids.dtype, mask.dtype) == (np.int64, np.int32)
    assert set(np.unique(ids)) <= set(range(5))
    assert len(np.unique(ids)) == 5
    assert set(np.unique(mask)) == {0, 1}
    assert (mask[:, 0] == 1).all()


def test_small_integers_use_their_whole_range(signature) -> None:
    a = signature("(uint8[N,300] x) => (uint8[N,300] y) { y = Identity(x) }")
    (array,) = make(a, a).arrays
    assert (array.min(), array.max(), array.dtype) == (0, 255, np.uint8)


def test_free_sizes_are_one_unless_they_are_named(signature) -> None:
    a = signature(f"(float[N,seq,?] x) => (float[N,seq,?] y) {RELU}")
    assert make(a, a).arrays[0].shape == (64, 1, 1)
    assert make(a, a, sizes={"seq": 7, "x.2": 3}).arrays[0].shape == (64, 7, 3)
    with pytest.raises(UsageError, match=r"did you mean 'dim\.seq'"):
        make(a, a, sizes={"seqq": 7})


def test_a_size_that_one_model_fixes_is_taken(signature) -> None:
    free = signature(f"(float[N,seq] x) => (float[N,seq] y) {RELU}")
    fixed = signature(f"(float[2,9] x) => (float[2,9] y) {RELU}")
    check_alike(free, fixed)
    assert common_batch(free, fixed, None) == 2
    assert make(free, fixed, batch=2).arrays[0].shape == (64, 9)


def test_large_inputs_are_fewer_but_fill_a_batch(signature, monkeypatch) -> None:
    a = signature(f"(float[N,10,10] x) => (float[N,10,10] y) {RELU}")
    monkeypatch.setattr("edgebench.pipeline.comparison_inputs.LARGEST_INPUTS", 4000)
    assert make(a, a, batch=2).arrays[0].shape[0] == 10
    assert make(a, a, batch=16).arrays[0].shape[0] == 16


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("(float[N,3] x)", "(float[N,3] x, float[N,3] z)", "one takes 1 inputs, the other 2"),
        ("(float[N,3] x)", "(float[N,4] x)", "'x' is [N, 3] and [N, 4]"),
        ("(float[N,3] x)", "(float[N,3,1] x)", "'x' is [N, 3] and [N, 3, 1]"),
        ("(float[N,3] x)", "(int64[N,3] x)", "'x' is float32 and int64"),
        (
            "(float[N,3] x, float[N,3] z)",
            "(float[N,3] z, float[N,3] x)",
            "called x, z and z, x in another order",
        ),
    ],
)
def test_models_of_other_inputs_do_not_compare(signature, first, second, said) -> None:
    a, b = (
        signature(f"{inputs} => (float[N] y) {{ y = Cast<to=1>(x) }}") for inputs in (first, second)
    )
    with pytest.raises(NotComparableError) as caught:
        check_alike(a, b)
    assert said in caught.value.line()


def test_one_input_may_have_another_name_and_another_float(signature) -> None:
    a = signature(f"(float[N,3] x) => (float[N,3] y) {RELU}")
    b = signature("(float16[N,3] image) => (float16[N,3] y) { y = Relu(image) }")
    check_alike(a, b)
    assert make(a, b).arrays[0].dtype == np.float32
    assert make(b, a).arrays[0].dtype == np.float32


def test_other_fixed_batches_do_not_compare(signature) -> None:
    sizes = {n: signature(f"(float[{n},3] x) => (float[{n},3] y) {RELU}") for n in ("N", 2, 4)}
    with pytest.raises(NotComparableError, match="fixed at 2 and 4"):
        common_batch(sizes[2], sizes[4], None)
    with pytest.raises(UsageError, match="fixes its batch at 2, not 3"):
        common_batch(sizes["N"], sizes[2], 3)
    assert common_batch(sizes["N"], sizes["N"], 3) == 3
    assert common_batch(sizes["N"], sizes["N"], None) == 1


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ("(float x) => (float y) { y = Relu(x) }", "no dimension that counts the examples"),
        ("(string[N] x) => (string[N] y) { y = Identity(x) }", "its input 'x' is"),
        ("(bfloat16[N] x) => (bfloat16[N] y) { y = Relu(x) }", "is bfloat16"),
        ("() => (float[1] y) { y = Constant<value_float=1.0>() }", "takes no inputs"),
        (
            "(float[1,2] x, float[3,2] z) => (float[3,2] y) { y = Add(x, z) }",
            "fix different batches: [1, 3]",
        ),
        ("(seq(float[N]) x) => (seq(float[N]) y) { y = Identity(x) }", "'x' is no tensor"),
    ],
)
def test_models_that_cannot_be_fed_are_one_line(signature, graph: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        signature(graph)
    assert said in caught.value.line()


@pytest.fixture
def two(signature) -> Signature:
    return signature("(float[N,3] x, int64[N,2] n) => (float[N,3] y, int64[N,2] m)"
                     " { y = Relu(x) m = Identity(n) }")  # fmt: skip


def test_an_npz_gives_one_array_for_each_input(two, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    x, n = np.ones((5, 3), np.float32), np.ones((5, 2), np.int32)
    np.savez(path, n=n, x=x, other=x)
    found = make(two, two, data=str(path))
    assert [a.dtype for a in found.arrays] == [np.float32, np.int32]
    assert not found.random
    assert "x float32 [5, 3], n int32 [5, 2]" in found.words


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((5, 3), np.float32)}, "there is no array 'n'"),
        ({"x": np.ones((5, 3)), "n": np.ones((4, 2), int)}, "hold [4, 5] examples"),
        ({"x": np.ones((5, 4)), "n": np.ones((5, 2), int)}, "'x' is [5, 4]"),
        ({"x": np.ones((5, 3)), "n": np.ones((5, 2))}, "'n' is float64"),
        ({"x": np.ones((0, 3)), "n": np.ones((0, 2), int)}, "hold [0] examples"),
        ({"x": np.array([["a"] * 3]), "n": np.ones((1, 2), int)}, "'x' is <U1"),
        ({"x": np.array([[{}] * 3]), "n": np.ones((1, 2), int)}, "cannot be read"),
    ],
)
def test_an_npz_that_does_not_fit_is_one_line(two, tmp_path: Path, arrays, said: str) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as caught:
        make(two, two, data=str(path))
    assert said in caught.value.line()
    assert "in.npz" in caught.value.line()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_what_is_no_npz_is_one_line(two, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgebenchError) as caught:
        make(two, two, data=str(path))
    assert isinstance(caught.value, DataError)


def test_a_data_set_gives_its_test_images(signature) -> None:
    a = signature("(float[N,1,8,8] x) => (float[N,64] y) { y = Flatten(x) }")
    found = make(a, a, data="digits", limits=DataLimits(test=20))
    assert found.arrays[0].shape == (20, 1, 8, 8)
    assert found.words.startswith("digits, test: x float32")
    wrong = signature("(float[N,3,8,8] x) => (float[N,192] y) { y = Flatten(x) }")
    with pytest.raises(DataError, match="takes"):
        make(wrong, wrong, data="digits")


def test_a_data_set_cannot_feed_two_inputs(two) -> None:
    with pytest.raises(DataError, match="one input, the models take 2"):
        make(two, two, data="digits")


def test_data_decides_the_sizes(two, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the data decides the sizes"):
        make(two, two, data="in.npz", sizes={"N": 3})
