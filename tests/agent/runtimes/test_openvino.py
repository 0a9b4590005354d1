from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.openvino import _device, _known_as, _properties

pytest.importorskip("openvino", reason="OpenVINO is not installed")

OPENVINO = RUNTIMES["openvino"]


def _property(model: Any, name: str) -> str:
    return str(model._compiled.get_property(name))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_one_stream_and_float32_are_asked_for(networks: Path, threads: int) -> None:
    model = OPENVINO.load(networks / "network.onnx", ["CPU"], threads, {})
    assert _property(model, "INFERENCE_NUM_THREADS") == str(threads)
    assert _property(model, "NUM_STREAMS") == "1"
    assert "float32" in _property(model, "INFERENCE_PRECISION_HINT")
    assert _property(model, "PERFORMANCE_HINT").endswith("LATENCY")
    assert model.providers == ["CPU"]


def test_properties_of_the_user_win(networks: Path) -> None:
    model = OPENVINO.load(
        networks / "network.onnx", ["CPU"], 1, {"INFERENCE_PRECISION_HINT": "bf16"}
    )
    assert "bfloat16" in _property(model, "INFERENCE_PRECISION_HINT")


def test_a_property_it_does_not_know_is_one_line(networks: Path) -> None:
    with pytest.raises(ModelFailedError) as caught:
        OPENVINO.load(networks / "network.onnx", ["CPU"], 1, {"SPEED": "most"})
    assert str(caught.value) == (
        "OpenVINO cannot load the model: NotFound: Unsupported property SPEED by CPU plugin."
    )


def test_a_device_that_is_not_there_is_one_line(networks: Path) -> None:
    if "NPU" in OPENVINO.offered():
        pytest.skip("this machine has one")
    with pytest.raises(ModelFailedError) as caught:
        OPENVINO.load(networks / "network.onnx", ["NPU"], 1, {})
    assert "\n" not in str(caught.value)


def test_inspection_names_the_numbers_layers_compute_in(
    networks: Path, tmp_path: Path, int8_models: ModuleType
) -> None:
    feed = (np.zeros((1, 3, 8, 8), np.float32),)
    found = OPENVINO.inspect(networks / "network.onnx", ["CPU"], 1, {}, feed)
    assert found is not None
    assert found.nodes["CPU"]["Convolution f32"] == 1
    assert found.unoptimised is None
    path = int8_models.write(tmp_path / "int8.onnx", reduce_range=True)
    found = OPENVINO.inspect(path, ["CPU"], 1, {}, (int8_models.feed(),))
    assert found is not None
    assert found.integer_operators.get("FullyConnected") == 1


def test_several_devices_share_a_model_in_order() -> None:
    assert _device(["CPU"]) == "CPU"
    assert _device(["GPU", "CPU"]) == "HETERO:GPU,CPU"
    shared = _properties(["GPU", "CPU"], 4, {"CACHE_DIR": "/cache"})
    assert shared["DEVICE_PROPERTIES"]["CPU"]["INFERENCE_NUM_THREADS"] == 4
    assert shared["CACHE_DIR"] == "/cache"
    assert "CACHE_DIR" not in _properties(["CPU"], 1, {})
    assert "INFERENCE_PRECISION_HINT" not in _properties(["GPU"], 1, {})
    assert _known_as("GPU.0", ["GPU"]) == "GPU"
    assert _known_as("GPU.1", ["GPU.1", "CPU"]) == "GPU.1"


def test_a_model_shared_with_itself_is_placed(networks: Path) -> None:
    """HETERO with the processor alone: the only device there surely is."""
    feed = (np.zeros((2, 3, 8, 8), np.float32),)
    model = OPENVINO.load(networks / "network.onnx", ["HETERO:CPU"], 1, {})
    wanted = OPENVINO.load(networks / "network.onnx", ["CPU"], 1, {}).infer(feed)
    assert np.allclose(model.infer(feed)[0], wanted[0], atol=1e-5)
