"""Modules of several inputs and outputs, exported for both runtimes and checked in every output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError, ModelError
from edgebench.exporters.onnx_answers import answer_shapes, file_answers
from edgebench.exporters.onnx_from_torch import check_parity, compare_files, export_onnx
from edgebench.exporters.pt2_from_torch import export_pt2

RNG = np.random.default_rng(0)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(1, 4, 3), nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, image, size):
        hidden = self.conv(image).mean((2, 3)) + self.dense(size)
        # Not in the order of their names, and one called as an input.
        return {"size": self.head(hidden), "map": hidden[:, :, None], "best": hidden.argmax(1)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 20)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return hidden.mean(1), self.out(hidden)


def images(count: int = 9) -> dict[str, np.ndarray]:
    return {
        "image": RNG.random((count, 1, 6, 6), dtype=np.float32),
        "size": RNG.normal(size=(count, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module, path = Two().eval(), tmp_path_factory.mktemp("two") / "two.onnx"
    assert "within" in export_onnx(module, images(), path, opset=18)
    return module, path


def test_inputs_and_outputs_keep_their_names_and_a_free_batch(two) -> None:
    module, path = two
    graph = onnx.load(path).graph
    assert [v.name for v in graph.input] == ["image", "size"]
    assert [v.name for v in graph.output] == ["size-out", "map", "best"]
    for count in (1, 5):
        feed = images(count)
        wanted = module(*(torch.from_numpy(a) for a in feed.values()))
        got = onnxruntime.InferenceSession(path).run(None, feed)
        for one, other in zip(got, wanted.values(), strict=True):
            np.testing.assert_allclose(one, other.detach().numpy(), atol=1e-5)
    assert answer_shapes(path, images(2)) == {"size-out": (1,), "map": (4, 1), "best": ()}


def test_tokens_and_a_tuple(tmp_path: Path) -> None:
    torch.manual_seed(0)
    feed = {"tokens": RNG.integers(0, 20, (6, 5))}
    export_onnx(Tokens().eval(), feed, tmp_path / "t.onnx", opset=18)
    graph = onnx.load(tmp_path / "t.onnx").graph
    assert [v.name for v in graph.output] == ["output-0", "output-1"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64


def test_a_program_of_torch_is_checked_in_every_output(two, tmp_path: Path) -> None:
    module, _ = two
    assert "on 9 examples" in export_pt2(module, images(), tmp_path / "two.pt2")


def test_a_gap_in_any_output_is_found(two, tmp_path: Path) -> None:
    module, path = two
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([9.0], np.float32), "head.bias"))
    onnx.save(model, tmp_path / "bent.onnx")
    with pytest.raises(BuildError, match=r"differ from torch's by up to .* in 'size'"):
        check_parity(module, tmp_path / "bent.onnx", images(), quantized=False)
    told = compare_files(path, tmp_path / "bent.onnx", images())
    assert "map as before, best as before" in told
    assert told.startswith("SQNR size-out ")
    assert compare_files(path, path, images()) == "answers as before on 9 examples"


def parsed(tmp_path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}'),
              tmp_path / "m.onnx")  # fmt: skip
    return tmp_path / "m.onnx"


def test_a_users_file_whose_answers_count_no_examples(tmp_path: Path) -> None:
    path = parsed(tmp_path, "g (float[N, 2] a) => (float[M] y) { y = ReduceSum <keepdims=0> (a) }")
    with pytest.raises(ModelError, match=r"'y' has shape \[\] for 2 examples"):
        answer_shapes(path, {"a": np.ones((2, 2), np.float32)})
    path = parsed(tmp_path, "g (float[N, 2] a) => (float[N, 2] y) { y = Div(a, a) }")
    with pytest.raises(ModelError, match="'y' is not finite"):
        answer_shapes(path, {"a": np.zeros((2, 2), np.float32)})


def test_a_fixed_batch_leaves_out_what_does_not_fill_it(tmp_path: Path) -> None:
    path = parsed(tmp_path, "g (float[4, 2] a) => (float[4, 2] y) { y = Neg(a) }")
    found = file_answers(path, {"a": np.ones((10, 2), np.float32)})
    assert found["y"].shape == (8, 2)
    with pytest.raises(BuildError, match="fixed at 4, more than there are"):
        file_answers(path, {"a": np.ones((3, 2), np.float32)})
