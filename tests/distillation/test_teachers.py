"""Who teaches, and how those who are trained for it are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from edgebench.distillation.noise import fixed_teacher, noise_logits
from edgebench.distillation.objectives import Answers, Objective
from edgebench.distillation.settings import TeacherSettings
from edgebench.distillation.teachers import Trainer, Tutor, count, find_tutor
from edgebench.errors import BuildError, ModelError
from edgebench.hashing import named_seed
from edgebench.models.base import MODELS
from edgebench.training.loop import predict
from edgebench.training.losses import Batch
from edgebench.training_settings import Jitter, Training


@pytest.fixture
def trainer(data) -> Trainer:
    def seed(purpose: str) -> int:
        return named_seed(0, purpose)

    return Trainer(
        torch.from_numpy(data.train_x),
        torch.from_numpy(data.train_y),
        10,
        Training(epochs=1, batch_size=32, learning_rate=5e-3),
        init_seed=seed,
        order_seed=seed,
        checkpoint=lambda purpose: None,
    )


@pytest.fixture
def find(data, network, trainer):
    """A function that finds the teacher of some settings, LeNet of an eighth's width as base's."""

    def new_module(width: float = 0.25) -> nn.Module:
        return MODELS.get("lenet")(data.input_shape, 10, width)

    def give(how: Any, **changes: Any) -> Tutor:
        used = {"base": network("lenet"), "new_module": new_module, "trainer": trainer, **changes}

        def objective(teacher) -> Objective:
            return Answers(trainer.y, 4.0, 1.0, probabilities=False).logits(teacher)

        return find_tutor(
            TeacherSettings.model_validate(how),
            used["base"],
            used["new_module"],
            used["trainer"],
            used.get("objective", objective),
        )

    return give


def shown(trainer: Trainer, *chosen: int) -> Batch:
    examples = torch.tensor(chosen)
    return Batch((trainer.x[examples],), examples)


def fits(monkeypatch) -> list[tuple[str, Training, int]]:
    """What is trained from here on: its name, its settings and its seed."""
    from edgebench.distillation import teachers

    seen: list[tuple[str, Training, int]] = []
    real = teachers.fit

    def fit(module, x, loss, settings, *, seed, what, **more) -> None:
        seen.append((what, settings, seed))
        real(module, x, loss, settings, seed=seed, what=what, **more)

    monkeypatch.setattr(teachers, "fit", fit)
    return seen


def test_base_teaches_what_it_answers(find, network, trainer) -> None:
    tutor = find("base")
    expected = predict(network("lenet"), trainer.x)[[3, 8]]
    torch.testing.assert_close(tutor.answers(shown(trainer, 3, 8)), expected)
    assert tutor.sizes == (count(network("lenet")),)
    assert not tutor.notes


def test_an_ensemble_answers_with_the_mean_of_its_logits(
    find, network, trainer, monkeypatch
) -> None:
    trained = fits(monkeypatch)
    modules: list[nn.Module] = []
    real = Trainer.train_on_labels

    def keep(self, module, *more) -> nn.Module:
        modules.append(real(self, module, *more))
        return module

    monkeypatch.setattr(Trainer, "train_on_labels", keep)
    tutor = find({"kind": "ensemble", "members": 3, "epochs": 2})
    assert [(what, s.epochs) for what, s, _ in trained] == [
        ("teacher 2 of 3", 2),
        ("teacher 3 of 3", 2),
    ]
    assert len({seed for _, _, seed in trained}) == 2
    each = [predict(m, trainer.x)[[0, 5]] for m in (network("lenet"), *modules)]
    assert not torch.allclose(each[1], each[2])
    answers = tutor.answers(shown(trainer, 0, 5))
    torch.testing.assert_close(answers, sum(each) / 3)
    # The mean of logits is the geometric mean of the probabilities, at any temperature.
    product = torch.stack([(e / 4).softmax(1).log() for e in each]).mean(0).exp()
    torch.testing.assert_close((answers / 4).softmax(1), product / product.sum(1, keepdim=True))
    assert tutor.sizes == (count(network("lenet")),) * 3
    assert tutor.network is None


def test_each_assistant_is_taught_by_the_one_before(find, network, trainer) -> None:
    asked: list[torch.Tensor] = []

    def objective(teacher) -> Objective:
        asked.append(teacher(shown(trainer, 0, 1)))
        return Answers(trainer.y, 4.0, 1.0, probabilities=False).logits(teacher)

    tutor = find({"kind": "assistant", "assistants": [0.2, 0.1]}, objective=objective)
    torch.testing.assert_close(asked[0], predict(network("lenet"), trainer.x)[[0, 1]])
    assert len(asked) == 2
    assert not torch.allclose(asked[0], asked[1])
    assert tutor.network is not None
    assert tutor.network[0].out_channels == 3
    sizes = [f"{count(MODELS.get('lenet')((1, 8, 8), 10, w)):,}" for w in (0.25, 0.2, 0.1)]
    assert tutor.notes == [
        f"the teacher is the last of a chain of {' → '.join(sizes)} parameters, each taught by the "
        "one before"
    ]


def test_a_chain_that_does_not_get_smaller_is_warned_of(find, network) -> None:
    # Three quarters of the factory's channels, where base itself has a quarter.
    [note] = find("assistant").notes
    size = count(network("lenet"))
    assert note.startswith(f"warning: the teacher is the last of a chain of {size:,} → ")
    assert note.endswith(": the chain does not get smaller")


def test_assistants_need_a_width(find) -> None:
    def new_module(**options: Any) -> nn.Module:
        raise ModelError("the factory takes no 'width'", where="model 'm:f'")

    with pytest.raises(BuildError, match=r"no assistant: the factory takes no 'width'.*teacher: {"):
        find("assistant", new_module=new_module)


@pytest.mark.parametrize("kind", ["ensemble", "assistant", "jitter"])
def test_an_onnx_file_has_no_kin(find, kind: str) -> None:
    with pytest.raises(BuildError, match=f"no factory of networks: no '{kind}' can be made"):
        find(kind, new_module=None)


def test_a_jittered_teacher_is_trained_with_the_jitter_asked_for(find, monkeypatch) -> None:
    trained = fits(monkeypatch)
    tutor = find({"kind": "jitter", "jitter": {"hue": 0.1, "contrast": 0.5}})
    [(what, settings, _)] = trained
    assert what == "the jitter-trained teacher"
    assert settings.augment.jitter == Jitter(hue=0.1, contrast=0.5)
    assert "contrast 0.5, saturation 0.2, hue 0.1" in tutor.notes[0]
    find("jitter")
    assert trained[1][1].augment.jitter == Jitter()


def test_a_named_network_is_trained_or_brings_its_weights(
    find, data, network, trainer, monkeypatch, tmp_path: Path
) -> None:
    trained = fits(monkeypatch)
    options = {"width": 0.5}
    tutor = find({"model": "resnet8", "options": options, "epochs": 2})
    assert [(what, s.epochs) for what, s, _ in trained] == [("the teacher 'resnet8'", 2)]
    assert tutor.sizes == (count(network("resnet8")),)
    assert tutor.notes == ["the teacher is 'resnet8', trained for 2 epochs"]

    save_model(network("resnet8"), str(tmp_path / "big.safetensors"))
    weights = str(tmp_path / "big.safetensors")
    tutor = find({"model": "resnet8", "options": options, "weights": weights})
    assert len(trained) == 1
    expected = predict(network("resnet8"), trainer.x)[[2, 4]]
    torch.testing.assert_close(tutor.answers(shown(trainer, 2, 4)), expected)
    assert tutor.notes == ["the teacher is 'resnet8', with the weights of big.safetensors"]
    with pytest.raises(ModelError, match="the weights do not fit the model"):
        find({"model": "resnet8", "weights": weights})


def test_a_teacher_that_ends_in_a_softmax_teaches_its_logits(find, network, trainer) -> None:
    base = nn.Sequential(network("lenet"), nn.Softmax(1))
    tutor = find("base", base=base)
    assert tutor.probabilities
    answers = tutor.answers(shown(trainer, 3, 8))
    expected = predict(network("lenet"), trainer.x)[[3, 8]].log_softmax(1)
    torch.testing.assert_close(answers, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["uniform-noise", "gaussian-noise"])
def test_noise_is_drawn_once_for_each_example(kind: str) -> None:
    logits = noise_logits(kind, 20000, 3, seed=4)
    assert logits.shape == (20000, 3)
    assert torch.equal(logits, noise_logits(kind, 20000, 3, seed=4))
    assert not torch.equal(logits, noise_logits(kind, 20000, 3, seed=5))
    mean, spread = (0.5, 12**-0.5) if kind == "uniform-noise" else (0.0, 1.0)
    assert float(logits.mean()) == pytest.approx(mean, abs=0.02)
    assert float(logits.std()) == pytest.approx(spread, abs=0.02)
    assert bool(((logits >= 0) & (logits <= 1)).all()) == (kind == "uniform-noise")


def test_noise_stays_with_its_example_however_its_image_is_changed(find, trainer) -> None:
    tutor = find("gaussian-noise")
    first, second = shown(trainer, 0, 5), shown(trainer, 5, 9)
    changed = Batch((trainer.x[[5]] + 1,), torch.tensor([5]), augmented=True)
    assert torch.equal(tutor.answers(first)[1], tutor.answers(second)[0])
    assert torch.equal(tutor.answers(first)[1], tutor.answers(changed)[0])
    assert tutor.sizes == ()
    assert fixed_teacher(torch.eye(3))(Batch((), torch.tensor([2]))).tolist() == [[0, 0, 1]]
