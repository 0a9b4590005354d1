"""What every technique promises, old or new: a new file is tested the day it lands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_model, save_model

from edgebench.errors import BuildError
from edgebench.exporters.onnx_file import classifier_of, count_parameters, read_onnx
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.techniques.base import (
    TECHNIQUES,
    OnnxTechnique,
    Options,
    Technique,
    TorchTechnique,
)

# A value for each option that has no default. A technique with another one adds it here.
REQUIRED: dict[str, Any] = {"ratio": 0.5}
QUICK = {"epochs": 1, "examples": 64, "ratio": 0.5}

NAMES = TECHNIQUES.names()
ON_TORCH = [name for name, kind in TECHNIQUES.items() if issubclass(kind, TorchTechnique)]
ON_ONNX = [name for name, kind in TECHNIQUES.items() if issubclass(kind, OnnxTechnique)]


def default_options(name: str) -> Any:
    """A technique's own defaults, made quick where they can be."""
    kind = TECHNIQUES.get(name).Options
    values = {key: value for key, value in QUICK.items() if key in kind.model_fields}
    for key, field in kind.model_fields.items():
        if field.is_required():
            assert key in REQUIRED, f"'{name}' needs '{key}': add a value to REQUIRED in this file"
            values[key] = REQUIRED[key]
    return kind.model_validate(values)


def ready(name: str) -> tuple[Any, Technique]:
    """A technique and its default options; skips where its package is not installed."""
    options, technique = default_options(name), TECHNIQUES.get(name)()
    try:
        technique.check(options)
    except BuildError as error:
        pytest.skip(str(error))
    return options, technique


def sentences(notes: list[str]) -> None:
    for note in notes:
        assert note == note.strip()
        assert len(note.split()) > 2
        assert "\n" not in note
        assert str(Path.cwd()) not in note


def test_there_are_techniques_of_both_levels() -> None:
    assert set(ON_TORCH) | set(ON_ONNX) == set(NAMES)
    assert ON_TORCH
    assert ON_ONNX


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    kind = TECHNIQUES.get(name)
    assert kind.name == name
    assert kind.summary.strip()
    assert "\n" not in kind.summary
    assert (kind.__doc__ or "").strip()
    assert kind.level in {"torch", "onnx"}
    assert issubclass(kind.Options, Options)
    assert kind.last is None or len(kind.last.split()) > 2


def described(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for key, field in model.model_fields.items():
        yield key, field
        for argument in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                yield from described(argument)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_described_and_recorded(name: str) -> None:
    for key, field in described(TECHNIQUES.get(name).Options):
        assert field.description, f"the option '{key}' of '{name}' has no description"
    options = default_options(name)
    text = json.dumps(options.model_dump(mode="json"))
    assert TECHNIQUES.get(name).Options.model_validate(json.loads(text)) == options
    json.dumps(TECHNIQUES.get(name)().identity(options))
    with pytest.raises(ValueError, match="frozen"):
        options.anything = 1
    with pytest.raises(ValueError, match="Extra inputs"):
        TECHNIQUES.get(name).Options.model_validate({**options.model_dump(), "anything": 1})


@pytest.mark.parametrize("name", ON_TORCH)
def test_a_module_is_compressed_stored_made_again_and_exported(
    data, network, context, tools, tmp_path: Path, name: str
) -> None:
    options, technique = ready(name)
    assert isinstance(technique, TorchTechnique)
    used = context()
    assert used.base is not None
    base = {key: tensor.clone() for key, tensor in used.base.state_dict().items()}
    torch.manual_seed(1)
    state = torch.random.get_rng_state()

    module, outcome = technique.apply(network("lenet"), options, used)

    assert not any(part.training for part in module.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(base[key], t) for key, t in used.base.state_dict().items())
    sentences(outcome.notes)
    wanted = tools.run_module(module, data.test_x)
    assert wanted.shape == (100, 10)
    assert np.isfinite(wanted).all()

    # As the builder stores it: tensors and a description, never a pickled module.
    save_model(module, str(tmp_path / "weights.safetensors"))
    structure = json.loads(json.dumps(outcome.structure))
    again = technique.restructure(network("lenet"), options, structure, used)
    load_model(again, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(tools.run_module(again, data.test_x), wanted)

    # export_onnx compares ONNX Runtime's answers with torch's.
    path = tmp_path / "model.onnx"
    export_onnx(again, data.test_x[:32], path, opset=20)
    classifier = classifier_of(read_onnx(path), where="")
    assert classifier.input_shape == (None, 1, 8, 8)
    assert classifier.output_shape == (None, 10)
    agree = tools.run_onnx(path, data.test_x).argmax(1) == wanted.argmax(1)
    assert agree.mean() > 0.95

    # Whatever torch's own draws are, the same context gives the same bits.
    torch.manual_seed(2)
    twin, told = technique.apply(network("lenet"), options, used)
    assert told == outcome
    first, second = module.state_dict(), twin.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ON_ONNX)
def test_a_file_is_compressed(data, exported, context, tools, tmp_path: Path, name: str) -> None:
    options, technique = default_options(name), TECHNIQUES.get(name)()
    assert isinstance(technique, OnnxTechnique)
    source = exported("lenet")
    content = source.read_bytes()
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]

    # Without a base: the technique also serves a user's own file.
    outcome, told = (
        technique.apply(source, p, options, context(base=None, new_module=None)) for p in paths
    )

    assert source.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert told == outcome
    sentences(outcome.notes)
    assert str(tmp_path).encode() not in paths[0].read_bytes()
    assert paths[0].stat().st_size < len(content)

    model = read_onnx(paths[0])
    assert classifier_of(model, where="").output_shape[1] == 10
    assert count_parameters(model)[0] == count_parameters(read_onnx(source))[0]
    given, wanted = (tools.run_onnx(p, data.test_x) for p in (paths[0], source))
    assert given.shape == wanted.shape
    assert given.dtype == np.float32
    assert np.isfinite(given).all()
    assert (given.argmax(1) == wanted.argmax(1)).mean() > 0.9
    np.testing.assert_allclose(
        tools.run_onnx(paths[0], data.test_x[:1]), given[:1], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ON_TORCH)
def test_the_seed_reaches_every_random_draw(network, context, name: str) -> None:
    options, technique = ready(name)
    assert isinstance(technique, TorchTechnique)
    one, other = (
        technique.apply(network("lenet"), options, context(seed=seed))[0].state_dict()
        for seed in (0, 1)
    )
    changed = any(not torch.equal(one[key], other[key]) for key in one)
    fields = technique.Options.model_fields
    # Examples are drawn where an option asks for them, training always.
    assert changed or "epochs" not in fields
    assert not changed or {"epochs", "examples"} & fields.keys()
