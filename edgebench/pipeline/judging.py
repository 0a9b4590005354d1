"""From what was built and measured to the record of the run: nothing here trains or times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import compare, gate, stats
from edgebench.errors import EXIT_FAILED, NotMeasuredError
from edgebench.hashing import value_digest
from edgebench.metrics.base import Context, Outputs
from edgebench.metrics.scenarios import named
from edgebench.pipeline.answers import kind_of, reader_for
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.plan import check_kind
from edgebench.pipeline.results import (
    AgentResult,
    inspection_notes,
    read_device,
    read_result,
    read_samples,
)
from edgebench.pipeline.scenario_results import scenario_results
from edgebench.recipe import Gate, reference_name
from edgebench.records import WARNING, BuildRecord, Measurement, RunRecord, Stage, Variant
from edgebench.store import read_json

# So much better than guessing a network answers at least that has learnt anything.
LEARNT = 0.02


def judge_folder(
    folder: RunFolder, build: BuildRecord, require: Sequence[str], stages: Sequence[Stage]
) -> RunRecord:
    """The record of a run whose results lie in `folder`.

    Outputs and samples are those the target returned; a variant without a whole result is kept,
    with the reason.
    """
    build = _lifted(build)
    device = read_device(folder.results / "device.json")
    manifest = read_json(folder.bundle / "manifest.json")
    assert isinstance(manifest, dict)  # noqa: S101 - written by `write_bundle`
    reader = reader_for(build.data, folder)
    measured: dict[str, Variant] = {}
    arrays: dict[str, NDArray[np.float32]] = {}
    samples: dict[str, compare.Samples] = {}
    for variant in build.variants:
        if variant.artifact is None:
            continue
        name = variant.name
        try:
            result = read_result(folder.results, name, manifest, device["fingerprint"])
            if result.status == "measured":
                answers = reader.read(folder.results / name / "outputs.npy")
                if not variant.beside:
                    samples[name] = read_samples(folder.results / name / "samples.npz")
                arrays[name] = answers
                measured[name] = _measured(variant, result, folder, device, manifest)
            else:
                measured[name] = _failed(variant, result.problem or "the agent gave no reason")
        except NotMeasuredError as error:
            missing = not (folder.results / name / "result.json").is_file()
            unmeasured = variant.model_copy(update={"problem": error.line()})
            measured[name] = unmeasured if missing else _failed(variant, error.line())
    outputs = reader.outputs(arrays)
    variants = [
        _compared(measured.get(v.name, v), outputs, samples, measured.get("base"), build)
        for v in build.variants
    ]
    gates = [Gate(**g) for g in build.recipe["gates"]]
    base = next(v for v in variants if v.name == "base")
    warnings = list(build.warnings)
    if base.status != "measured":
        verdict, code = None, EXIT_FAILED
        text = f"No verdict: base was not measured ({base.problem})."
        judged = [
            v if v.status in {"failed", "skipped"} or v is base else _without_base(v)
            for v in variants
        ]
    else:
        judged = [gate.judge_variant(_with_floor(v, base), base, gates) for v in variants]
        verdict, text, code = gate.judge_run(judged, require)
        warnings += [*_device_warnings(build, device, base), *_warnings(judged, base, build)]
    return RunRecord(
        run_id=build.run_id,
        created=build.created,
        edgebench_version=build.edgebench_version,
        versions=build.versions,
        recipe=build.recipe,
        target=build.target,
        device=device,
        data=build.data,
        variants=tuple(judged),
        search=build.search,
        landscape=compare.landscape(outputs, [v.name for v in build.variants if v.control]),
        stages=(*build.stages, *stages),
        warnings=tuple(warnings),
        verdict=verdict,
        verdict_text=text,
        exit_code=code,
    )


def _lifted(build: BuildRecord) -> BuildRecord:
    """The build with the warnings among its variants' notes moved to its own."""
    found = [
        f"{variant.name}: {note.removeprefix(WARNING)}"
        for variant in build.variants
        for note in variant.notes
        if note.startswith(WARNING)
    ]
    variants = tuple(
        variant.model_copy(
            update={"notes": tuple(n for n in variant.notes if not n.startswith(WARNING))}
        )
        for variant in build.variants
    )
    return build.model_copy(update={"variants": variants, "warnings": (*build.warnings, *found)})


def judge_again(run: RunRecord, gates: Sequence[Gate], require: Sequence[str]) -> RunRecord:
    """A finished run under other gates: the measurements stand, the verdicts are new.

    Raises RecipeError for a gate on what is not known of this run's answers.
    """
    check_kind(gates, kind_of(run.data), where="gates")
    base = run.base
    judged = [gate.judge_variant(v, base, gates) for v in run.variants]
    verdict, text, code = gate.judge_run(judged, require)
    return run.model_copy(
        update={
            "recipe": {**run.recipe, "gates": [g.model_dump() for g in gates]},
            "variants": tuple(judged),
            "verdict": verdict,
            "verdict_text": text,
            "exit_code": code,
        }
    )


def _measured(
    variant: Variant,
    result: AgentResult,
    folder: RunFolder,
    device: dict[str, Any],
    manifest: dict[str, Any],
) -> Variant:
    """The variant with its status and evidence from the agent's result."""
    metrics = dict(variant.metrics)
    if result.energy_mj is not None:
        metrics["energy_mj"] = result.energy_mj
    intervals = {}
    for name in ("load_ms", "first_inference_ms", "peak_memory_mib"):
        if result.cold:
            found = stats.median_interval(np.array([getattr(one, name) for one in result.cold]))
            metrics[name] = found.point
            intervals[name] = found
    place = folder.results / variant.name
    own = place.relative_to(folder.path)
    scenarios = scenario_results(
        result.scenarios,
        place,
        [] if variant.beside else manifest["protocol"]["scenarios"],
        relative=str(own / "scenarios.npz"),
        processes=manifest["protocol"]["processes"],
    )
    under_load, comparisons = named(scenarios)
    intervals |= under_load
    metrics |= {name: found.point for name, found in under_load.items()}
    return variant.model_copy(
        update={
            "status": "measured",
            "problem": None,
            "metrics": metrics,
            "intervals": intervals,
            "comparisons": comparisons,
            "scenarios": scenarios,
            "measurement": Measurement.model_validate(
                {
                    "grade": device["grade"],
                    "fingerprint": measurement_fingerprint(device, manifest, result),
                    "valid": result.valid,
                    "invalid_reasons": result.invalid_reasons,
                    "evidence": {
                        **result.evidence,
                        "cold": [one.model_dump() for one in result.cold],
                    },
                    "samples_file": None if variant.beside else str(own / "samples.npz"),
                    "outputs_file": str(own / "outputs.npy"),
                }
            ),
        }
    )


def _compared(
    variant: Variant,
    outputs: dict[str, Outputs],
    samples: dict[str, compare.Samples],
    base: Variant | None,
    build: BuildRecord,
) -> Variant:
    """The variant with its metrics and comparisons."""
    if variant.status != "measured":
        return variant
    values, intervals = compare.model_metrics(outputs[variant.name])
    metrics = {**variant.metrics, **values}
    intervals = {**variant.intervals, **intervals}
    comparisons = dict(variant.comparisons)
    if variant.name in samples:
        latencies, latency_intervals = compare.latency_metrics(samples[variant.name])
        metrics |= latencies
        intervals |= latency_intervals
        comparisons["latency_ratio"] = compare.latency_ratio(
            samples[variant.name], protocol=build.recipe["protocol"]
        )
        variant = _with_timing_evidence(variant, samples[variant.name], build)
    if variant.name != "base" and base is not None and base.status == "measured":
        controls = tuple(
            outputs[v.name]
            for v in build.variants
            if v.control and v.name != variant.name and v.name in outputs
        )
        weights = _weights(len(outputs["base"].values), int(build.recipe["seed"]))
        reference = outputs.get(reference_name(variant.name))
        context = Context(outputs["base"], controls, weights, reference)
        comparisons |= compare.pair_metrics(outputs[variant.name], context)
        comparisons |= compare.size_ratios(metrics, base.metrics)
    return variant.model_copy(
        update={"metrics": metrics, "intervals": intervals, "comparisons": comparisons}
    )


def _with_timing_evidence(
    variant: Variant, samples: compare.Samples, build: BuildRecord
) -> Variant:
    """The variant with what its samples say of the measurement itself."""
    measurement = variant.measurement
    assert measurement is not None  # noqa: S101 - its samples were read
    seed = int(build.recipe["seed"])
    evidence = {**measurement.evidence, "quality": compare.timing_quality(samples, seed)}
    # Only samples confirm; what the device says of itself does not.
    claimed = evidence.pop("confirmation", {})
    again = compare.confirmation(samples, protocol=build.recipe["protocol"])
    if again is not None:
        evidence["confirmation"] = {**claimed, "latency_ratio": again.model_dump()}
    return variant.model_copy(
        update={"measurement": measurement.model_copy(update={"evidence": evidence})}
    )


def _with_floor(variant: Variant, base: Variant) -> Variant:
    """The variant with the noise floor, and the least change its measurement would have found."""
    measurement, ratio = variant.measurement, variant.comparisons.get("latency_ratio")
    if measurement is None or ratio is None:
        return variant
    floor = gate.noise_floor(base)
    found = gate.smallest_detectable_change(ratio, floor)
    marked = measurement.model_copy(
        update={"noise_floor": gate.finite_floor(floor), "smallest_detectable_change": found}
    )
    return variant.model_copy(update={"measurement": marked})


@lru_cache(maxsize=1)
def _weights(n: int, seed: int) -> NDArray[np.float32]:
    """The run's bootstrap resamples; made once, since all variants share them."""
    return stats.bootstrap_weights(n, seed)


def _device_warnings(build: BuildRecord, device: dict[str, Any], base: Variant) -> list[str]:
    """Where the device or its provider is not what the target's name promises."""
    if build.target.get("family") != "jetson":
        return []
    found = []
    if not device["identity"].get("jetson"):
        found.append("this device does not look like a Jetson: it has no L4T release file")
    evidence = base.measurement.evidence if base.measurement is not None else {}
    used = evidence.get("providers", [])
    if used and used[0] == "CPUExecutionProvider":
        found.append(
            "measured on the processor, not the GPU: the device's ONNX Runtime offers no CUDA or "
            "TensorRT provider; install one built for its JetPack"
        )
    return found


def _warnings(variants: Sequence[Variant], base: Variant, build: BuildRecord) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    floor = gate.noise_floor(base)
    if 0.05 < floor < math.inf:
        found.append(
            f"base timed against itself differs by up to {floor:.0%}: this device is noisy, and "
            "smaller changes of latency cannot be told"
        )
    moving = [v.name for v in variants if not gate.is_steady(v)]
    if moving:
        found.append(
            f"the latency of {', '.join(moving)} was still moving when the warm-up's time was "
            "over; raise protocol.warmup_cap_s"
        )
    for v in variants:
        evidence = v.measurement.evidence if v.measurement is not None else {}
        found += [f"{v.name}: {note}" for note in inspection_notes(evidence)]
    controls = [v for v in variants if v.control]
    if controls and not any(v.status == "measured" for v in controls):
        found.append("no independent control was measured: functional_preservation has no scale")
    guessing = _guessing(variants, build)
    found += guessing.values()
    base_accuracy = base.metrics.get("accuracy")
    for control in (v for v in controls if v.name not in guessing):
        accuracy = control.metrics.get("accuracy")
        if accuracy is not None and base_accuracy is not None and accuracy < base_accuracy - 0.1:
            found.append(
                f"{control.name} reaches {accuracy:.1%} where base has {base_accuracy:.1%}: a "
                "control that learned less makes every variant look preserved; train it longer"
            )
    return found


def _guessing(variants: Sequence[Variant], build: BuildRecord) -> dict[str, str]:
    """A warning for each network that answers no better than guessing, by its name.

    Where base itself does, it stands for all that was made of it.
    """
    classes = build.data.get("classes")
    if not classes:
        return {}
    found = {}
    stages = {stage.name for stage in build.stages}
    for v in variants:
        accuracy = v.metrics.get("accuracy")
        if accuracy is None or accuracy > 1 / classes + LEARNT:
            continue
        text = f"{v.name} answers no better than guessing ({accuracy:.1%} of {classes} classes)"
        trained = f"train {v.name}" in stages or v.reference is not None or _trains(v.chain)
        found[v.name] = f"{text}: its training failed; lower the learning rate" if trained else text
    independent = {"base", *(v.name for v in variants if v.control)}
    return {n: text for n, text in found.items() if n in independent or "base" not in found}


def _trains(chain: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a step of a chain trains: its options, or those of its fine-tuning, have epochs."""
    return any("epochs" in step or step.get("finetune") for step in chain)


def _without_base(variant: Variant) -> Variant:
    return variant.model_copy(
        update={"status": "not_measured", "problem": "there is no base to compare with"}
    )


def measurement_fingerprint(
    device: dict[str, Any], manifest: dict[str, Any], result: AgentResult
) -> str:
    """The sha256 of all that has to be alike for two latencies to be comparable.

    Not the model: what is compared are models.
    """
    return value_digest(
        {
            "device": device["fingerprint"],
            "runtime": manifest["runtime"],
            "providers": result.evidence.get("providers"),
            "cpu": len(result.evidence.get("cpu", [])),
            "batch": manifest["protocol"]["batch"],
            "inputs": [entry["sha256"] for entry in manifest["inputs"]],
        }
    )


def _failed(variant: Variant, problem: str) -> Variant:
    return variant.model_copy(update={"status": "failed", "problem": problem, "measurement": None})
