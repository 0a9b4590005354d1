"""What techniques are told of the target, of base and of strangers is what really is so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.models.source import find_model
from edgebench.pipeline.build import Builder
from edgebench.pipeline.build_context import USUAL_WIDTH, BuildContext
from edgebench.pipeline.main import connect
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.target_probe import TargetProbe
from edgebench.pipeline.task import load_task
from edgebench.recipe import load_recipe
from edgebench.store import Store
from edgebench.target import load_target

RECIPE = """
model: lenet
model_options: {width: 0.25}
data: digits
data_limits: {train: 200, test: 60, validation: 50}
training: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3}
variants: {half: [{technique: cast}]}
controls: {independent: 2}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates: [{metric: size_ratio, max: 0.9}]
"""


def device(flags=(), providers=("CPUExecutionProvider",)):
    return {
        "fingerprint": "f",
        "identity": {"machine": "m", "cpu_flags": list(flags), "providers": list(providers)},
    }


def builder(folder, *settings, probed=False, seen=None):
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    recipe, target = load_recipe(str(path), settings=list(settings)), load_target("cpu")
    source = find_model(recipe.model, weights=recipe.weights, options=recipe.model_options)
    task = load_task(recipe, source)
    probe = TargetProbe(connect(target), target, recipe.protocol, 10, 0) if probed else None
    made = Builder(
        recipe, target, source, task, "u8s8", Store.default(), Silent(), seen or device(), probe
    )
    made.base()
    return made


def context(made):
    return made._surroundings.context()


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shared_cache):
    """A builder with base alone, that tests may read but not change."""
    return builder(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("flags", "width"),
    [
        (["sse2", "avx", "avx2", "fma"], 8),
        (["avx2", "avx512f", "avx512_vnni"], 16),
        (["avx"], 8),
        (["fp", "asimd", "asimddp"], 4),
        (["neon", "vfpv4"], 4),
        ([], USUAL_WIDTH),
    ],
)
def test_the_vector_width_follows_from_the_processors_flags(plain, flags, width):
    around = plain._surroundings
    own = {**vars(around), "device": device(flags)}
    own.pop("vector_width", None)
    assert surroundings(own).vector_width == width


@pytest.mark.parametrize(
    ("providers", "width"),
    [
        (["CPUExecutionProvider"], 4),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], USUAL_WIDTH),
    ],
)
def test_a_gpu_has_a_width_of_its_own(plain, providers, width):
    own = {**vars(plain._surroundings), "device": device(["asimd"], providers)}
    auto = plain.target.model_copy(
        update={"runtime": plain.target.runtime.model_copy(update={"providers": "auto"})}
    )
    assert surroundings({**own, "target": auto}).vector_width == width
    # A target that names the processor runs on it, whatever else the device has.
    named = plain.target.model_copy(
        update={
            "runtime": plain.target.runtime.model_copy(
                update={"providers": ["CPUExecutionProvider"]}
            )
        }
    )
    assert surroundings({**own, "target": named}).vector_width == 4


def surroundings(values):
    """A BuildContext of these fields; what it has worked out already is left behind."""
    return BuildContext(**{k: values[k] for k in BuildContext.__dataclass_fields__})


def test_without_a_device_the_usual_width_holds(plain):
    own = {**vars(plain._surroundings), "device": None}
    assert surroundings(own).vector_width == USUAL_WIDTH


def test_base_starts_again_from_its_first_weights(plain):
    import copy

    from edgebench.training.loop import deterministic, fit
    from edgebench.training.losses import cross_entropy

    first = context(plain).initial_module()
    again = context(plain).initial_module()
    trained = context(plain).base
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert not torch.equal(tensor, trained.state_dict()[name]) or not tensor.is_floating_point()
    # Trained as base was, they become base, bit for bit.
    from edgebench.hashing import named_seed

    module = copy.deepcopy(first)
    with deterministic(0):
        fit(
            module,
            torch.from_numpy(plain.dataset.train_x),
            cross_entropy(torch.from_numpy(plain.dataset.train_y), probabilities=False),
            plain.recipe.training,
            seed=named_seed(plain.recipe.seed, "base", "order"),
            what="base",
        )
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_given_weights_have_no_first_ones(plain, tmp_path):
    torch.save(context(plain).base.state_dict(), tmp_path / "base.pt")
    given = builder(tmp_path, f"weights={tmp_path / 'base.pt'}")
    assert context(given).initial_module is None
    assert context(given).new_module is not None


def test_the_distance_of_strangers_is_that_of_their_probabilities(tmp_path):
    made = builder(tmp_path)
    assert context(made).stranger_distance is None
    modules = [made._networks.trained(f"independent-{i}")[0] for i in (1, 2)]
    for index in (1, 2):
        assert made.control(index).problem is None
    x, _ = context(made).validation()
    assert len(x) == 50
    with torch.no_grad():
        base = context(made).base(x).softmax(1)
        far = [(one(x).softmax(1) - base).norm(dim=1).mean().item() for one in modules]
    assert context(made).stranger_distance() == pytest.approx(np.mean(far), rel=1e-4)


def test_latencies_come_from_the_target_in_the_modules_order(tmp_path):
    assert context(builder(tmp_path)).latency_ratios is None
    made = builder(tmp_path, probed=True)

    def dense(hidden):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)
        ).eval()

    large, small = context(made).latency_ratios([dense(3000), dense(8)])
    assert 0 < small < large
    assert large > 10


def test_without_examples_held_out_some_of_training_are_borrowed(plain, tmp_path):
    assert context(plain).decided_on() == "50 examples held out of training"
    made = builder(tmp_path, "data_limits.validation=null")
    assert "training examples, since none are held out" in context(made).decided_on()
    x, y = made.validation()
    assert (len(x), len(y)) == (200, 200)
