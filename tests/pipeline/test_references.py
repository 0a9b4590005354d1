"""A network that was only trained on, measured beside a variant: untimed, unjudged, told of."""

from __future__ import annotations

import re

import pytest
import torch

from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.main import Job
from edgebench.pipeline.progress import Silent
from edgebench.recipe import load_recipe
from edgebench.report.html import render_html
from edgebench.target import load_target
from edgebench.techniques.base import TECHNIQUES, Options, Outcome, TorchTechnique

RECIPE = """
model: lenet
model_options: {width: 0.25}
data: digits
data_limits: {train: 200, test: 100}
training: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3}
variants:
  shifted: [{technique: prune-unstructured, ratio: 0.2}, {technique: shift-head}]
  alone: [{technique: shift-head, beside: false}]
  broken: [{technique: shift-head, fails: true}]
controls: {independent: 0}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: accuracy_over_reference_pp, max: 0.0}
"""


class ShiftOptions(Options):
    beside: bool = True
    fails: bool = False


class ShiftHead(TorchTechnique):
    """Forget all classes but the first; its reference leaves the head as it is."""

    name = "shift-head"
    summary = "answers class 0"
    Options = ShiftOptions

    def reference_text(self, options):
        return "with the head left alone" if options.beside else None

    def reference(self, module, options, context):
        if options.fails:
            raise RuntimeError("no reference today")
        return module

    def apply(self, module, options, context):
        head = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1]
        with torch.no_grad():
            head.bias[0] += 1e4
        return module, Outcome(notes=["class 0 it is"])

    def restructure(self, module, options, structure, context):
        return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared_cache):
    folder = tmp_path_factory.mktemp("references")
    (folder / "r.yaml").write_text(RECIPE)
    # Only here: the contract tests are of the techniques that ship.
    TECHNIQUES.names()
    TECHNIQUES._members["shift-head"] = ShiftHead
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_STORE", str(folder / "history.sqlite"))
        try:
            yield Job(
                load_recipe(str(folder / "r.yaml")),
                load_target("cpu"),
                RunFolder(folder / "run"),
                Silent(),
            ).run()
        finally:
            del TECHNIQUES._members["shift-head"]


def test_it_stands_behind_its_variant_with_what_it_is(finished):
    names = [v.name for v in finished.variants]
    assert names == ["base", "shifted", "shifted.reference", "alone", "broken", "broken.reference"]
    reference = finished.variant("shifted.reference")
    assert reference.reference == "with the head left alone"
    assert "with the head left alone" in reference.notes
    assert finished.variant("shifted").reference is None


def test_it_is_neither_timed_nor_judged(finished):
    reference = finished.variant("shifted.reference")
    assert reference.status == "measured"
    assert reference.verdict is None
    assert reference.reasons == ()
    assert "latency_ratio" not in reference.comparisons
    assert reference.measurement.samples_file is None
    assert finished.variant("shifted").comparisons["latency_ratio"].point is not None


def test_it_is_the_network_before_the_last_step(finished):
    shifted, reference = (finished.variant(n) for n in ("shifted", "shifted.reference"))
    # Pruned as the variant is: the chain's other steps are part of what it is held against.
    assert reference.metrics["sparsity"] == pytest.approx(0.2, abs=0.05)
    over = shifted.comparisons["accuracy_over_reference_pp"].point
    own, others = (v.metrics["accuracy"] for v in (shifted, reference))
    assert over == pytest.approx(100 * (own - others))
    assert over < -5


def test_without_one_there_is_nothing_to_tell(finished):
    assert "accuracy_over_reference_pp" not in finished.variant("alone").comparisons
    assert finished.variant("alone").verdict == "INCONCLUSIVE"


def test_where_it_fails_the_variant_stands(finished):
    reference = finished.variant("broken.reference")
    assert reference.status == "failed"
    assert "no reference today" in reference.problem
    assert finished.variant("broken").status == "measured"


def test_the_report_shows_it(finished):
    page = render_html(finished)
    assert "shifted.reference" in page
    assert "with the head left alone" in page
    assert "Accuracy over its reference" in page
    # It is no row of the verdicts.
    verdicts = re.search(r'aria-labelledby="verdicts".*?</section>', page, re.DOTALL)[0]
    assert 'scope="rowgroup">shifted.reference' not in verdicts
