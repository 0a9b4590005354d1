"""A student learns from a teacher; the teacher stays as it is."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from edgebench.errors import BuildError, ModelError
from edgebench.models.base import MODELS, call_factory
from edgebench.techniques.base import TECHNIQUES
from edgebench.training_settings import Training

DISTILL = TECHNIQUES.get("distill")
ON_FEATURES = ["hints", "attention", "crd"]
LOSSES = ["logits", "cross-entropy", "label-smoothing", "dkd", *ON_FEATURES]


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def distill(tools, module, context, **options):
    return DISTILL().apply(module, tools.options_of("distill", **options), context)


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def first_weights(data):
    """A function that gives base's network with the same first weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        module = MODELS.get("lenet")(data.input_shape, 10, 0.25)
    return lambda: deepcopy(module)


def test_the_student_is_smaller_and_the_teacher_unchanged(network, context, tools) -> None:
    teacher = network("lenet")
    before = deepcopy(teacher)
    student, outcome = distill(tools, network("lenet"), context(base=teacher), width=0.125)
    assert size(student) < size(teacher)
    assert same(before, teacher)
    assert outcome.notes == [
        f"the student has {size(student):,} parameters, its teacher {size(teacher):,}",
        "the student minimised 0.1·CE(labels) + 0.9·T²·KL(teacher ‖ student), both softened by "
        "T = 4, in nats",
    ]
    assert not student.training


def test_the_student_is_half_as_wide_where_nothing_is_said(network, context, tools) -> None:
    student, _ = distill(tools, network("lenet"), context(), epochs=1)
    assert student[0].out_channels == 16


def test_a_student_of_another_architecture(data, network, context, tools) -> None:
    student, _ = distill(
        tools, network("lenet"), context(), student="resnet8", width=0.25, epochs=1
    )
    assert size(student) == size(MODELS.get("resnet8")(data.input_shape, 10, 0.25))


def test_a_student_larger_than_its_teacher_is_warned_of(network, context, tools) -> None:
    options = {"width": 0.5}
    student, outcome = distill(tools, network("lenet"), context(), options=options, epochs=1)
    sizes = f"{size(student):,} parameters, its teacher {size(network('lenet')):,}"
    assert outcome.notes[0] == (
        f"warning: the student has {sizes}: the student is larger than its teacher"
    )


def test_a_student_is_measured_against_the_largest_network_of_an_ensemble(
    network, context, tools
) -> None:
    base = network("lenet")

    def new_module(width: float = 0.25) -> nn.Module:
        return MODELS.get("lenet")((1, 8, 8), 10, width)

    def first_note(width: float) -> str:
        used = context(new_module=new_module)
        teacher = {"kind": "ensemble", "members": 3, "epochs": 1}
        student, outcome = distill(tools, base, used, width=width, epochs=1, teacher=teacher)
        sizes = f"{size(student):,} parameters, its teacher {3 * size(base):,} in 3 networks"
        return outcome.notes[0].replace(f"the student has {sizes}", "SIZES")

    assert first_note(0.125) == "SIZES"
    # Larger than each of the three, smaller than all of them together.
    assert first_note(0.4) == "warning: SIZES: the student is larger than each of them"


def test_what_is_built_depends_on_both_sources_and_the_weights(
    network, tools, tmp_path: Path
) -> None:
    identity = DISTILL().identity(tools.options_of("distill", student="resnet8", width=0.25))
    assert identity["student"]["model"] == "resnet8"
    assert DISTILL().identity(tools.options_of("distill")) == {}
    file = tmp_path / "weights.safetensors"
    teacher = {"model": "lenet", "options": {"width": 0.25}, "weights": str(file)}
    options = tools.options_of("distill", teacher=teacher)
    found = []
    for name in ("lenet", "resnet8"):
        save_model(network(name), str(file))
        found.append(DISTILL().identity(options)["teacher"]["weights"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"student": "lenett"}, "student: unknown model 'lenett'; did you mean 'lenet'?"),
        ({"teacher": {"model": "lenett"}}, "teacher: unknown model 'lenett'"),
        ({"student": "small.onnx"}, "an ONNX file can be no student: 'small.onnx'"),
        ({"teacher": {"model": "big.onnx"}}, "an ONNX file can be no teacher"),
        (
            {"teacher": {"model": "lenet", "weights": "nowhere.pt"}},
            "there is no file of the teacher's weights: 'nowhere.pt'",
        ),
    ],
)
def test_names_of_nothing_are_told_before_any_work(tools, options, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        DISTILL().check(tools.options_of("distill", **options))
    assert text in str(caught.value)


def test_names_of_something_pass(tools) -> None:
    DISTILL().check(tools.options_of("distill", student="lenet", teacher={"model": "my.code:big"}))


def test_the_student_learns_the_teachers_answers(data, network, context, tools) -> None:
    teacher = network("resnet8")
    wanted = tools.run_module(teacher, data.test_x).argmax(1)

    def agreement(**options) -> float:
        student, _ = distill(
            tools, network("lenet"), context(base=teacher), width=0.25, alpha=1.0, **options
        )
        return float((tools.run_module(student, data.test_x).argmax(1) == wanted).mean())

    assert agreement(epochs=12) > 0.7
    assert agreement(epochs=12) > agreement(epochs=1, learning_rate=1e-6) + 0.3


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(data, network, context, tools, loss: str) -> None:
    student, outcome = distill(tools, network("lenet"), context(), width=0.25, loss=loss, epochs=24)
    answers = tools.run_module(student, data.test_x)
    assert tools.accuracy(answers, data.test_y) > 0.4
    assert all(not part._forward_hooks for part in student.modules())
    assert set(student.state_dict()) == set(network("lenet").state_dict())
    assert sum("the student minimised" in note for note in outcome.notes) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"loss": "cross-entropy", "alpha": 0.5},
            "0.5·H(labels, student) + 0.5·H(teacher, student), both softened by T = 1, in nats, "
            "without T²",
        ),
        (
            {"loss": "label-smoothing", "alpha": 0.6},
            "CE with smoothed labels: 0.46 for the label, 0.06 for each other class",
        ),
        (
            {"loss": "dkd", "dkd": {"beta": 2, "warmup_epochs": 3}},
            "CE(labels) + T²·(1·TCKD + 2·NCKD), rising over 3 epochs, each a KL(teacher ‖ student)",
        ),
        (
            {"loss": "dkd", "dkd": {"warmup_epochs": 1}},
            "8·NCKD), rising over 1 epoch, each a KL(teacher ‖ student)",
        ),
        ({"loss": "attention"}, "CE(labels) + 1000·MSE of the attention maps"),
        (
            {"loss": "hints", "alpha": 0.5, "hints": {"weight": 3}},
            "both softened by T = 4, in nats, + 3·MSE(regressor(student), teacher)",
        ),
        ({"loss": "crd"}, "CE(labels) + 0.8·CRD (T = 0.07, "),
    ],
)
def test_the_loss_is_stated(network, context, tools, options, text: str) -> None:
    _, outcome = distill(tools, network("lenet"), context(), width=0.125, epochs=1, **options)
    assert any(text in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 0.5}, "0.5·CE(labels smoothed by 0.2) + 0.5·T²·KL"),
        ({"loss": "cross-entropy"}, "0.1·H(labels smoothed by 0.2, student) + 0.9·H"),
        ({"loss": "dkd"}, "CE(labels smoothed by 0.2) + T²·"),
        ({"loss": "attention"}, "CE(labels smoothed by 0.2) + 1000·MSE"),
        ({"loss": "hints", "alpha": 0.5}, "0.5·CE(labels smoothed by 0.2) + 0.5·T²·KL"),
    ],
)
def test_bases_label_smoothing_is_the_students_too(network, context, tools, options, text) -> None:
    def trained(smoothing: float) -> tuple[nn.Module, Any]:
        training = Training(epochs=1, batch_size=32, learning_rate=5e-3, label_smoothing=smoothing)
        used = context(training=training)
        return distill(tools, network("lenet"), used, width=0.125, **options)

    (plain, without), (smoothed, outcome) = trained(0.0), trained(0.2)
    assert not same(plain, smoothed)
    assert any(text in note for note in outcome.notes)
    assert not any("smoothed" in note for note in without.notes)


def test_a_loss_that_is_faded_in_may_rise_as_far(network, context, tools, monkeypatch) -> None:
    from edgebench.distillation import teachers

    seen: list[float] = []
    monkeypatch.setattr(teachers, "fit", lambda *_, rises, **more: seen.append(rises))
    for dkd in (None, {"warmup_epochs": 7}):
        distill(tools, network("lenet"), context(), width=0.125, loss="dkd", dkd=dkd)
    distill(tools, network("lenet"), context(), width=0.125)
    assert seen == [1, 7, 1]


def test_a_student_that_cannot_be_exported_is_told_of_before_it_is_trained(
    network, context, tools
) -> None:
    def check(module: nn.Module) -> None:
        checked.append(module)
        raise BuildError("the model cannot be exported", hint="use another")

    checked: list[nn.Module] = []
    seen: list[int] = []
    used = context(check_export=check, on_epoch=lambda done, *_: seen.append(done))
    said = r"^student 'resnet8': the model cannot be exported; use another$"
    with pytest.raises(BuildError, match=said):
        distill(tools, network("lenet"), used, student="resnet8", width=0.25)
    assert len(checked) == 1
    assert not seen
    # Base's own architecture was exported already.
    distill(tools, network("lenet"), used, width=0.125, epochs=1)
    assert len(checked) == 1


def test_the_layers_found_are_named(network, context, tools) -> None:
    def notes(**options) -> list[str]:
        return distill(tools, network("lenet"), context(), width=0.125, epochs=1, **options)[
            1
        ].notes

    assert "the student's layers learn from the teacher's: '4' from '4'" in notes(loss="hints")
    both = "the student's layers learn from the teacher's: '1' from '1', '4' from '4'"
    assert both in notes(loss="attention")
    found = notes(loss="crd")
    assert any("the input of '9' from the input of '9'" in note for note in found)
    # 300 digits of ten classes have some 270 of other classes, not 16,384.
    assert any("negatives an example: there are no more" in note for note in found)
    named = notes(loss="crd", crd={"layers": ["3:0"], "negatives": 8})
    assert "the student's layers learn from the teacher's: '3' from '0'" in named
    assert not any("there are no more" in note for note in named)
    named = notes(loss="hints", hints={"layers": ["0:3", "8:8"]})
    assert "the student's layers learn from the teacher's: '0' from '3', '8' from '8'" in named


def test_a_layer_that_is_not_there(network, context, tools) -> None:
    for layers, noun in (["nope:1"], "student"), (["1:nope"], "teacher"):
        with pytest.raises(BuildError, match=f"the {noun} has no layer 'nope'"):
            distill(
                tools,
                network("lenet"),
                context(),
                width=0.125,
                loss="attention",
                attention={"layers": layers},
            )


def test_networks_without_feature_maps(network, context, tools) -> None:
    def dense(width: float = 1.0) -> nn.Module:
        hidden = round(32 * width)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    used = context(new_module=dense, base=dense().eval())
    with pytest.raises(BuildError, match="do not both have them"):
        distill(tools, dense(), used, loss="attention")
    for loss in ("hints", "crd"):
        _, outcome = distill(tools, dense(), used, loss=loss, epochs=1)
        assert any("the input of '3' from the input of '3'" in note for note in outcome.notes)


def test_hints_bring_the_students_features_to_the_teachers(data, network, context, tools) -> None:
    """Behind the regressor that fits best, hinted features tell more of the teacher's."""
    x = torch.from_numpy(data.train_x)
    teacher = network("lenet")

    def unexplained(student: nn.Module) -> float:
        with torch.no_grad():
            ours, theirs = (m[:5](x).permute(0, 2, 3, 1).flatten(0, 2) for m in (student, teacher))
        ours = torch.cat([ours, torch.ones(len(ours), 1)], 1)
        best = torch.linalg.lstsq(ours, theirs, driver="gelsd").solution
        return float((ours @ best - theirs).square().mean() / theirs.var())

    plain, hinted = (
        distill(tools, teacher, context(), width=0.25, loss=loss, epochs=20, learning_rate=0.01)[0]
        for loss in ("logits", "hints")
    )
    assert unexplained(hinted) < 0.8 * unexplained(plain)


def test_attention_is_transferred(data, network, context, tools) -> None:
    from edgebench.distillation.feature_losses import attention

    x, teacher = torch.from_numpy(data.test_x), network("lenet")

    def distance(student: nn.Module) -> float:
        with torch.no_grad():
            return float((attention(student[:5](x)) - attention(teacher[:5](x))).norm(dim=1).mean())

    plain, taught = (
        distill(tools, teacher, context(), width=0.25, epochs=8, **options)[0]
        for options in ({"alpha": 0}, {"loss": "attention"})
    )
    assert distance(taught) < 0.7 * distance(plain)


def test_alpha_zero_learns_the_labels_alone(data, network, context, tools) -> None:
    def student(teacher: str) -> nn.Module:
        used = context(base=network(teacher))
        return distill(tools, network("lenet"), used, alpha=0.0, epochs=1)[0]

    assert same(student("lenet"), student("resnet8"))


def test_label_smoothing_asks_no_teacher(network, context, tools) -> None:
    def student(teacher: str) -> nn.Module:
        used = context(base=network(teacher))
        return distill(tools, network("lenet"), used, loss="label-smoothing", epochs=1)[0]

    assert same(student("lenet"), student("resnet8"))


def test_without_a_base_the_module_itself_teaches(network, context, tools) -> None:
    given, _ = distill(tools, network("lenet"), context(base=None), epochs=1)
    base, _ = distill(tools, network("resnet8"), context(), epochs=1)
    np.testing.assert_array_equal(given[0].weight.detach(), base[0].weight.detach())


def test_training_follows_base_unless_told_otherwise(network, context, tools) -> None:
    seen: list[int] = []
    used = context(on_epoch=lambda done, total, loss: seen.append(total))
    distill(tools, network("lenet"), used, width=0.125)
    assert seen == [2, 2]
    seen.clear()
    distill(tools, network("lenet"), used, width=0.125, epochs=3)
    assert seen == [3, 3, 3]


def test_weights_and_order_have_seeds_of_their_own(network, context, tools) -> None:
    def student(**seeds: int) -> nn.Module:
        training = Training(epochs=1, batch_size=32, learning_rate=1e-9, **seeds)
        return distill(tools, network("lenet"), context(training=training), width=0.125)[0]

    plain, other_order = student(init_seed=3), student(init_seed=3, order_seed=4)
    assert not same(plain, other_order)
    # The rate is next to nothing, so that the first weights are what is seen.
    torch.testing.assert_close(plain[0].weight, other_order[0].weight)
    assert not torch.allclose(plain[0].weight, student(init_seed=4)[0].weight)


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ({"kind": "ensemble", "members": 2}, "the teacher is base and 1 more"),
        ({"kind": "assistant", "assistants": [0.2]}, "the teacher is the last of a chain of"),
        ("jitter", "trained for 1 epoch with colour jitter"),
        ("uniform-noise", "the teacher is noise: logits from U(0, 1), drawn once for each"),
        ("gaussian-noise", "the teacher is noise: logits from N(0, 1), drawn once for each"),
        ({"model": "resnet8", "options": {"width": 0.25}}, "the teacher is 'resnet8', trained"),
    ],
)
def test_every_teacher_teaches_something_else(network, context, tools, teacher, text) -> None:
    used = context(training=Training(epochs=1, batch_size=32, learning_rate=5e-3))
    plain, _ = distill(tools, network("lenet"), used, width=0.125)
    student, outcome = distill(tools, network("lenet"), used, width=0.125, teacher=teacher)
    assert not same(plain, student)
    assert any(text in note for note in outcome.notes)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_finite_in_half_precision(
    network, context, tools, monkeypatch, loss: str
) -> None:
    """As on a GPU, where products are made in bfloat16; here it is the processor's autocast."""
    from edgebench.training import loop

    monkeypatch.setattr(loop, "products", lambda *_: torch.autocast("cpu", torch.bfloat16))
    student, _ = distill(tools, network("lenet"), context(), width=0.125, loss=loss, epochs=1)
    assert all(torch.isfinite(t).all() for t in student.state_dict().values())


@pytest.mark.parametrize("loss", ON_FEATURES)
def test_features_are_learnt_from_another_network(network, context, tools, loss: str) -> None:
    teacher = {"model": "resnet8", "options": {"width": 0.25}, "epochs": 1}
    student, outcome = distill(
        tools, network("lenet"), context(), width=0.125, loss=loss, teacher=teacher, epochs=1
    )
    assert any("learn from the teacher's" in note for note in outcome.notes)
    assert torch.isfinite(student[0].weight).all()


def test_the_teacher_sees_the_student_s_augmented_batches(network, context, tools) -> None:
    shown: list[torch.Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network("lenet")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shown.append(x)
            return self.inner(x)

    training = Training(epochs=1, batch_size=32, augment={"crop": 2})
    used = context(training=training, base=Watched().eval())
    distill(tools, network("lenet"), used, width=0.125)
    examples = used.tensors()[0]
    batches = shown[-10:]
    assert [len(b) for b in batches] == [32] * 9 + [12]
    unchanged = sum(int((examples == image).all((1, 2, 3)).any()) for image in batches[0])
    assert unchanged < 16


def test_the_student_of_self_starts_from_bases_first_weights(
    network, context, tools, first_weights
) -> None:
    training = Training(epochs=1, batch_size=32, learning_rate=1e-9)
    used = context(initial_module=first_weights, training=training)
    student, outcome = distill(tools, network("lenet"), used, teacher="self")
    torch.testing.assert_close(student[0].weight, first_weights()[0].weight)
    assert not same(student, first_weights())
    assert not any(note.startswith("warning") for note in outcome.notes)
    restored = DISTILL().restructure(
        network("lenet"),
        tools.options_of("distill", teacher="self"),
        outcome.structure,
        context(new_module=first_weights),
    )
    restored.load_state_dict(student.state_dict())


def test_first_weights_that_are_not_known(network, context, tools) -> None:
    for options in ({"teacher": "self"}, {"as_published": "000"}):
        with pytest.raises(BuildError, match="base's first weights, and those are not known"):
            distill(tools, network("lenet"), context(), **options)


def test_the_published_recipe(network, context, tools, first_weights, monkeypatch) -> None:
    from edgebench.distillation import teachers
    from edgebench.distillation.as_published import published_loss
    from edgebench.training.loop import fit
    from edgebench.training.losses import network_teacher

    seen: list[tuple[Training, int]] = []

    def watched(module, x, loss, settings, *, seed, **more) -> None:
        seen.append((settings, seed))
        fit(module, x, loss, settings, seed=seed, **more)

    monkeypatch.setattr(teachers, "fit", watched)
    training = Training(
        epochs=2,
        batch_size=64,
        learning_rate=5e-3,
        optimizer="sgd",
        nesterov=True,
        weight_decay=0.1,
        label_smoothing=0.1,
        warmup_epochs=1,
        ema=0.9,
        augment={"flip": True},
    )
    used = context(initial_module=first_weights, training=training)
    student, outcome = distill(tools, network("lenet"), used, as_published="000", alpha=0.1)
    [(settings, seed)] = seen
    assert settings == Training(
        epochs=2, batch_size=64, learning_rate=5e-3, optimizer="adamax", schedule="constant"
    )

    twin = first_weights()
    x, y = used.tensors()
    loss = published_loss(network_teacher(network("lenet"), x), y, alpha=0.1)
    fit(twin, x, loss, settings, seed=seed, what="twin")
    assert same(student, twin)
    assert any("a double softmax" in note and "0.1·CE(labels)" in note for note in outcome.notes)
    assert (
        "trained with epochs 2, learning_rate 0.005, where paper 000 had epochs 25, learning_rate "
        "0.001" in outcome.notes
    )


class Killed(Exception):
    """Stands for a SIGKILL in the middle of a training."""


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "crd", "crd": {"negatives": 32}},
        {"loss": "hints", "hints": {"layers": ["1:1", "8:8"]}},
        {"loss": "attention", "alpha": 0.5},
        {"loss": "dkd", "dkd": {"warmup_epochs": 4}},
        {"teacher": {"kind": "ensemble", "members": 2}},
        {"teacher": "gaussian-noise"},
    ],
)
def test_a_killed_distillation_goes_on_with_the_same_bits(
    network, context, tools, tmp_path: Path, options: dict[str, Any]
) -> None:
    augment = {"crop": 1}
    training = Training(epochs=3, batch_size=64, learning_rate=5e-3, ema=0.9, augment=augment)
    lives = {"left": 5 if "ensemble" in str(options) else 2}
    told: list[int] = []

    def on_epoch(done: int, total: int, loss: float) -> None:
        lives["left"] -= 1
        if lives["left"] == 0:
            raise Killed
        told.append(done)

    def run(scratch: Path | None) -> nn.Module:
        used = context(training=training, scratch=scratch, on_epoch=on_epoch)
        return distill(tools, network("lenet"), used, width=0.125, **options)[0]

    with pytest.raises(Killed):
        run(tmp_path)
    told.clear()
    resumed = run(tmp_path)
    # Neither the teachers nor the first epoch of the student are trained again.
    assert told == [2, 3]
    assert same(resumed, run(None))


def test_without_labels_the_technique_is_what_is_to_be_left_out(network, context, tools) -> None:
    used = context(train_y=np.empty(0, np.int64))
    with pytest.raises(BuildError, match=r"no labels to learn from; leave out 'distill'$"):
        distill(tools, network("lenet"), used)


def test_an_onnx_file_makes_no_students(network, context, tools) -> None:
    with pytest.raises(BuildError, match="no student can be made"):
        distill(tools, network("lenet"), context(new_module=None))


def test_a_factory_without_width_says_what_to_do(network, context, tools) -> None:
    def factory(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def new_module(**options):
        return call_factory(
            factory, input_shape=(1, 8, 8), classes=10, options=options, where="model 'm:f'"
        )

    with pytest.raises(BuildError, match=r"takes no 'width'; say how it is smaller with 'options:"):
        distill(tools, network("lenet"), context(new_module=new_module))


def test_a_student_must_answer_as_base_does(network, context, tools) -> None:
    base = nn.Sequential(network("lenet"), nn.Softmax(1))
    used = context(base=base, probabilities=True)
    with pytest.raises(BuildError, match="'resnet8' answers with logits and base with probabil"):
        distill(tools, base, used, student="resnet8", width=0.25)


def test_a_teacher_that_answers_other_classes(network, context, tools) -> None:
    teacher = {"model": "lenet", "options": {"classes": 4}}
    with pytest.raises(ModelError, match=r"teacher 'lenet': the model answers 4 classes"):
        distill(tools, network("lenet"), context(), width=0.125, teacher=teacher)
