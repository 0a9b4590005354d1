"""neural-compressor: refused in one line where it is absent, integers where it is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_model, save_model
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.quantization.fake_quant import activation_quantizers, quantized_layers
from edgebench.techniques.base import TECHNIQUES

TECHNIQUE = TECHNIQUES.get("ptq-neural-compressor")
NEEDED = ("neural_compressor", "torchao", "accelerate")

there = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="neural-compressor-pt and accelerate are not installed",
)


def quantize(tools, module: nn.Module, context, **options):
    options = tools.options_of("ptq-neural-compressor", **options)
    return TECHNIQUE().apply(module, options, context)


@pytest.mark.parametrize("absent", NEEDED)
def test_where_the_package_is_absent(network, context, tools, monkeypatch, absent: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, *rest: object) -> object:
        return None if name == absent else found("json" if name in NEEDED else name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    options = tools.options_of("ptq-neural-compressor")
    for attempt in (
        lambda: TECHNIQUE().check(options),
        lambda: quantize(tools, network("lenet"), context()),
        lambda: TECHNIQUE().restructure(network("lenet"), options, {}, context()),
    ):
        with pytest.raises(BuildError) as caught:
            attempt()
        assert str(caught.value) == (
            "'ptq-neural-compressor' needs the package neural-compressor-pt (there is no module "
            f"'{absent}'); pip install 'edgebench[neural-compressor]', on Python 3.11 or newer"
        )


def test_it_is_listed_without_the_package() -> None:
    code = (
        "import sys; from edgebench.techniques.base import TECHNIQUES; "
        "kind = TECHNIQUES.get('ptq-neural-compressor'); kind().identity(kind.Options()); "
        "print([n for n in ('torch', 'neural_compressor', 'torchao') if n in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 4}, "4 bits need 'weight_only: true'"),
        ({"weight_only": True, "examples": 10}, "weight_only needs no calibration"),
        ({"weight_only": True, "calibration": "kl"}, "weight_only needs no calibration"),
        ({"bits": 2}, "bits"),
        ({"calibration": "percentile"}, "calibration"),
        ({"examples": 0}, "examples"),
    ],
)
def test_options_that_make_no_sense(tools, options, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        tools.options_of("ptq-neural-compressor", **options)


@there
@pytest.mark.parametrize(
    ("name", "int8"),
    [("resnet8", "u8s8-reduced"), ("lenet", "s8s8"), ("lenet", "s8s8-symmetric")],
)
def test_integers_run_and_answer_alike(
    data, network, context, tools, tmp_path: Path, name: str, int8: str
) -> None:
    used, options = context(int8=int8), tools.options_of("ptq-neural-compressor", examples=64)
    before = torch.random.get_rng_state()
    given = network(name)
    untouched = {key: value.clone() for key, value in given.state_dict().items()}
    module, outcome = TECHNIQUE().apply(given, options, used)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(untouched[key], value) for key, value in given.state_dict().items())
    assert "on 64 training examples" in outcome.notes[0]
    weights = tools.weights_of(network(name))
    assert outcome.notes[1].startswith(f"{len(weights)} convolutions and dense layers")

    save_model(module, str(tmp_path / "weights.safetensors"))
    again = TECHNIQUE().restructure(network(name), options, outcome.structure, used)
    load_model(again, tmp_path / "weights.safetensors")
    wanted = tools.run_module(module, data.test_x)
    np.testing.assert_array_equal(tools.run_module(again, data.test_x), wanted)

    export_onnx(again, data.test_x[:32], tmp_path / "model.onnx", opset=20)
    answers = tools.run_onnx(tmp_path / "model.onnx", data.test_x, optimised=False)
    float_answers = tools.run_module(network(name), data.test_x)
    assert (answers.argmax(1) == float_answers.argmax(1)).mean() > 0.9
    if int8 != "s8s8-symmetric":
        # That format has float biases, for TensorRT; ONNX Runtime's kernels need integers.
        running = tools.running_operators(tmp_path / "model.onnx", tmp_path)
        assert running["QLinearConv"] == tools.convolutions(network(name))
        assert running["Conv"] == running["FusedConv"] == 0


@there
def test_ranges_are_those_of_the_examples(data, context, tools) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        module[1].weight.fill_(0.5)

    def input_range(**options) -> tuple[float, float]:
        made, _ = quantize(tools, module, context(int8="u8s8"), **options)
        first = activation_quantizers(made)[0]
        scale, zero = first.scale_and_zero()
        return float(scale), int(zero)

    # Digits lie in [0, 1]: 255 steps, and zero is the lowest integer.
    scale, zero = input_range(examples=300)
    assert scale == pytest.approx(float(data.train_x.max()) / 255, rel=1e-4)
    assert zero == 0
    narrow, _ = input_range(calibration="kl", examples=300)
    assert narrow <= scale * 1.01
    # Five other examples, another range: they are drawn by the seed.
    assert input_range(examples=5) == input_range(examples=5)


@there
def test_weights_keep_the_format_of_the_target(network, context, tools) -> None:
    for int8, limit in (("u8s8-reduced", 63), ("u8s8", 127)):
        made, _ = quantize(tools, network("lenet"), context(int8=int8), examples=8)
        for layer in quantized_layers(made):
            shape = (-1,) + (1,) * (layer.weight.dim() - 1)
            integers = (layer.quantized_weight() / layer.scales().view(shape)).detach()
            assert float(integers.abs().max()) == pytest.approx(limit, rel=1e-4)
            assert torch.allclose(integers, integers.round(), atol=1e-3)


@there
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone(data, network, context, tools, tmp_path: Path, bits: int) -> None:
    options = tools.options_of("ptq-neural-compressor", weight_only=True, bits=bits)
    given = tools.weights_of(network("lenet"))
    # A target without integers: products are made in float.
    used = context(precisions=("fp32",))
    module, outcome = TECHNIQUE().apply(network("lenet"), options, used)
    assert outcome.notes[0].startswith(f"the weights of 2 dense layers rounded to {bits} bits")
    assert len(quantized_layers(module)) == 2
    assert not activation_quantizers(module)
    largest = 2 ** (bits - 1) - 1
    for name, part in module.named_modules():
        if part in quantized_layers(module):
            # Rounded to nearest by the package, and again on the same integers for the file. Its
            # scales are of half precision.
            step = given[name].abs().amax(1, keepdim=True) / largest
            far = (part.weight - given[name]).abs() / step
            assert 0.4 < float(far.detach().max()) < 0.51 + largest * 2**-11
            torch.testing.assert_close(part.quantized_weight(), part.weight, rtol=1e-3, atol=1e-5)
            assert not torch.equal(part.weight, given[name])
    save_model(module, str(tmp_path / "weights.safetensors"))
    again = TECHNIQUE().restructure(network("lenet"), options, outcome.structure, used)
    load_model(again, tmp_path / "weights.safetensors")
    path = tmp_path / "model.onnx"
    export_onnx(again, data.test_x[:32], path, opset=21)
    wanted = tools.run_module(module, data.test_x)
    np.testing.assert_allclose(tools.run_onnx(path, data.test_x), wanted, rtol=1e-3, atol=1e-3)
    # Of the dense layers' bytes in float, a quarter or an eighth is left.
    dense = sum(
        given[n].numel() for n, p in module.named_modules() if p in quantized_layers(module)
    )
    export_onnx(network("lenet"), data.test_x[:32], tmp_path / "float.onnx", opset=21)
    gone = (tmp_path / "float.onnx").stat().st_size - path.stat().st_size
    assert gone == pytest.approx(dense * (4 - bits / 8), abs=1500)


class Branching(nn.Module):
    """Goes a way that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x.flatten(1))
        return x if float(x.sum()) > 0 else -x


@there
@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (Branching(), {}, "neural-compressor-pt cannot prepare this model: "),
        (nn.Flatten(), {}, "no 2-D convolution or dense layer to quantize"),
        (nn.Conv2d(1, 10, 8), {"weight_only": True}, "the model has no dense layer"),
    ],
)
def test_what_cannot_be_done_is_said(context, tools, capfd, module, options, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        quantize(tools, module, context(), **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@there
def test_a_target_without_int8(network, context, tools) -> None:
    with pytest.raises(BuildError, match="the target runs no int8; see 'precisions'"):
        quantize(tools, network("lenet"), context(precisions=("fp32",)))
