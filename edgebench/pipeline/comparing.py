"""Set any two ONNX models side by side on a target: bundle, measure, judge."""

from __future__ import annotations

from typing import Any

from edgebench.agent.runtimes import RUNTIMES
from edgebench.comparison import Comparison
from edgebench.errors import UsageError
from edgebench.hashing import file_digest, value_digest
from edgebench.pipeline.comparison_bundle import NAMES, Question, write_comparison_bundle
from edgebench.pipeline.comparison_inputs import (
    Inputs,
    Signature,
    check_alike,
    common_batch,
    inputs_for,
    read_signature,
)
from edgebench.pipeline.comparison_judging import judge_models
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.main import connect
from edgebench.pipeline.progress import Progress
from edgebench.pipeline.results import checked_device
from edgebench.pipeline.versions import measuring_code, package_versions
from edgebench.protocol import Protocol
from edgebench.report.comparison import COMPARISON_FILES, write_comparison
from edgebench.transports.base import Transport


def compare_models(question: Question, folder: RunFolder, progress: Progress) -> Comparison:
    """Measure both models and judge; writes `comparison.json` and `comparison.md` into the folder.

    Raises EdgebenchError. What was measured is kept, and an unfinished comparison is taken up.
    """
    _check_suffix(question)
    if question.protocol.scenarios:
        raise UsageError(
            "compare runs no scenarios",
            where="protocol.scenarios",
            hint="leave them out, or ask for them in a recipe and use edgebench run",
        )
    a, a_model = read_signature(question.a)
    b, b_model = read_signature(question.b)
    check_alike(a, b)
    batch = common_batch(a, b, question.batch)
    if question.max_disagreement is not None and not _classifies(a, b):
        raise UsageError(
            "the models' first outputs are not [N, classes], so they predict no classes",
            where="--max-disagreement",
            hint="leave it out",
        )
    inputs = inputs_for(
        a,
        b,
        data=question.data,
        limits=question.limits,
        seed=question.seed,
        sizes=question.sizes,
        batch=batch,
    )
    protocol = question.protocol.model_copy(update={"confirm": True, "batch": batch})
    transport = connect(question.target)
    if folder.record_file.exists():
        raise UsageError(
            "the folder holds a run", where=str(folder.path), hint="name another one with --out"
        )
    with folder.held():
        progress.begin("look at the device")
        device = checked_device(transport.probe(), where=f"target '{question.target.name}'")
        progress.end()
        plan = _plan_key(question, protocol, inputs, device)
        run_id, taken_up = folder.take_up(plan)
        if not taken_up:
            for name in COMPARISON_FILES:
                (folder.path / name).unlink(missing_ok=True)
        write_comparison_bundle(
            folder, run_id, question, protocol=protocol, inputs=inputs, models=(a_model, b_model)
        )
        _measure(transport, folder, protocol, progress)
        comparison = judge_models(question, folder, inputs, classes=_classifies(a, b))
        write_comparison(comparison, folder.path)
        folder.finish()
    return comparison


def _check_suffix(question: Question) -> None:
    name = question.target.runtime.name
    suffix = RUNTIMES[name].suffix
    if suffix != ".onnx":
        raise UsageError(
            f"its runtime '{name}' runs {suffix} files, not ONNX",
            where=f"target '{question.target.name}'",
            hint="name another runtime with --set target.runtime.name=onnxruntime",
        )


def _classifies(a: Signature, b: Signature) -> bool:
    """Whether both first outputs are [N, classes] of two classes or more, as far as is known."""
    shapes = [side.outputs[0].shape for side in (a, b)]
    return all(shape is not None and len(shape) == 2 and shape[1] != 1 for shape in shapes)


def _plan_key(
    question: Question, protocol: Protocol, inputs: Inputs, device: dict[str, Any]
) -> str:
    return value_digest(
        {
            "models": [file_digest(question.a), file_digest(question.b)],
            "target": question.target.model_dump(mode="json"),
            "protocol": protocol.model_dump(mode="json"),
            "inputs": inputs.words,
            "data": question.data,
            "limit": question.limit,
            "seed": question.seed,
            "measuring": measuring_code(),
            "device": device["fingerprint"],
            "versions": package_versions(),
        }
    )


def _measure(
    transport: Transport, folder: RunFolder, protocol: Protocol, progress: Progress
) -> None:
    """Run the agent on the target, following it."""
    each, finished = protocol.processes, 0
    progress.begin("measure", len(NAMES) * each)

    def on_event(event: dict[str, Any]) -> None:
        nonlocal finished
        kind = event.get("event")
        if kind == "waiting":
            progress.say("another run is measuring on this machine; waiting for it")
        elif kind == "process":
            progress.advance(finished * each + min(each, int(event.get("process", 0))))
        elif kind == "done":
            finished += 1
            progress.advance(finished * each)

    try:
        transport.measure(folder.bundle, folder.results, on_event)
    finally:
        progress.end()
