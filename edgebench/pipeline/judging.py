"""From what was built and measured to the record of the run: nothing here trains or times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import compare, gate, stats
from edgebench.errors import EXIT_FAILED, StorageError, one_line
from edgebench.metrics.base import Context, Outputs, looks_like_probabilities
from edgebench.pipeline.folder import RunFolder
from edgebench.recipe import Gate
from edgebench.records import BuildRecord, Measurement, RunRecord, Stage, Variant
from edgebench.store import read_json


def judge_folder(
    folder: RunFolder, build: BuildRecord, require: Sequence[str], stages: Sequence[Stage]
) -> RunRecord:
    """The record of a run whose results lie in `folder`.

    Outputs and samples are those the target returned; a variant without a whole result is kept,
    with the reason.
    """
    device = read_json(folder.results / "device.json")
    if not isinstance(device, dict):
        raise StorageError("holds no device", where=str(folder.results / "device.json"))
    labels: NDArray[np.int64] = np.load(folder.labels_file, allow_pickle=False)
    measured = {
        v.name: _measured(v, folder, device) for v in build.variants if v.artifact is not None
    }
    outputs = _outputs(folder, measured, labels, build)
    variants = [
        _compared(measured.get(v.name, v), outputs, measured.get("base"), folder, build)
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
        judged = [gate.judge_variant(v, base, gates) for v in variants]
        verdict, text, code = gate.judge_run(judged, require)
        warnings += [*_device_warnings(build, device, base), *_warnings(judged, base)]
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
        landscape=compare.landscape(outputs, [v.name for v in build.variants if v.control]),
        stages=(*build.stages, *stages),
        warnings=tuple(warnings),
        verdict=verdict,
        verdict_text=text,
        exit_code=code,
    )


def judge_again(run: RunRecord, gates: Sequence[Gate], require: Sequence[str]) -> RunRecord:
    """A finished run under other gates: the measurements stand, the verdicts are new."""
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


def _measured(variant: Variant, folder: RunFolder, device: dict[str, Any]) -> Variant:
    """The variant with its status and evidence from the agent's result."""
    own = folder.results / variant.name
    try:
        result = json.loads((own / "result.json").read_text())
    except FileNotFoundError:
        return variant.model_copy(update={"problem": "the agent returned no result"})
    except (OSError, ValueError) as error:
        return _failed(variant, f"the agent's result cannot be read: {one_line(str(error))}")
    if result["status"] != "measured":
        return _failed(variant, result["problem"] or "the agent gave no reason")
    cold = result["cold"]
    metrics = dict(variant.metrics)
    intervals = {}
    for name in ("load_ms", "first_inference_ms", "peak_memory_mib"):
        if cold:
            found = stats.median_interval(np.array([one[name] for one in cold], dtype=np.float64))
            metrics[name] = found.point
            intervals[name] = found
    samples = own / "samples.npz"
    return variant.model_copy(
        update={
            "status": "measured",
            "problem": None,
            "metrics": metrics,
            "intervals": intervals,
            "measurement": Measurement(
                grade=device["grade"],
                valid=result["valid"],
                invalid_reasons=tuple(result["invalid_reasons"]),
                evidence={**result["evidence"], "cold": cold},
                samples_file=_relative(samples, folder) if samples.is_file() else None,
                outputs_file=_relative(own / "outputs.npy", folder),
            ),
        }
    )


def _outputs(
    folder: RunFolder,
    measured: dict[str, Variant],
    labels: NDArray[np.int64],
    build: BuildRecord,
) -> dict[str, Outputs]:
    """The answers of every measured model; one whose answers are unusable becomes failed."""
    arrays: dict[str, NDArray[np.float32]] = {}
    classes = len(build.data["class_names"])
    for name, variant in measured.items():
        if variant.status != "measured":
            continue
        path = folder.results / name / "outputs.npy"
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            measured[name] = _failed(variant, f"its outputs cannot be read: {error}")
            continue
        if values.shape != (len(labels), classes):
            wanted = [len(labels), classes]
            measured[name] = _failed(
                variant, f"its outputs have shape {list(values.shape)}, not {wanted}"
            )
        elif not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            measured[name] = _failed(
                variant, f"{bad} of {len(labels)} outputs are not finite (NaN or infinity)"
            )
        else:
            arrays[name] = values
    probabilities = "base" in arrays and looks_like_probabilities(arrays["base"])
    return {name: Outputs(values, labels, probabilities) for name, values in arrays.items()}


def _compared(
    variant: Variant,
    outputs: dict[str, Outputs],
    base: Variant | None,
    folder: RunFolder,
    build: BuildRecord,
) -> Variant:
    """The variant with its metrics and comparisons."""
    if variant.status != "measured":
        return variant
    values, intervals = compare.model_metrics(outputs[variant.name])
    metrics = {**variant.metrics, **values}
    intervals = {**variant.intervals, **intervals}
    comparisons = {}
    if variant.measurement is not None and variant.measurement.samples_file is not None:
        samples = _read_samples(folder.path / variant.measurement.samples_file)
        latencies, latency_intervals = compare.latency_metrics(samples)
        metrics |= latencies
        intervals |= latency_intervals
        comparisons["latency_ratio"] = compare.latency_ratio(samples)
    if variant.name != "base" and base is not None and base.status == "measured":
        controls = tuple(
            outputs[v.name]
            for v in build.variants
            if v.control and v.name != variant.name and v.name in outputs
        )
        weights = _weights(len(outputs["base"].labels), int(build.recipe["seed"]))
        context = Context(outputs["base"], controls, weights)
        comparisons |= compare.pair_metrics(outputs[variant.name], context)
        comparisons |= compare.size_ratios(metrics, base.metrics)
    return variant.model_copy(
        update={"metrics": metrics, "intervals": intervals, "comparisons": comparisons}
    )


@lru_cache(maxsize=1)
def _weights(n: int, seed: int) -> NDArray[np.float32]:
    """The run's bootstrap resamples; made once, since all variants share them."""
    return stats.bootstrap_weights(n, seed)


def _read_samples(path: Path) -> compare.Samples:
    with np.load(path, allow_pickle=False) as arrays:
        return compare.Samples(
            **{
                name: arrays[name]
                for name in (
                    "block_process",
                    "block_pair",
                    "block_arm",
                    "sample_block",
                    "sample_ns",
                    "single_ns",
                )
            }
        )


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


def _warnings(variants: Sequence[Variant], base: Variant) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    floor = gate.noise_floor(base)
    if floor > 0.05:
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
    controls = [v for v in variants if v.control]
    if controls and not any(v.status == "measured" for v in controls):
        found.append("no independent control was measured: functional_preservation has no scale")
    base_accuracy = base.metrics.get("accuracy")
    for control in controls:
        accuracy = control.metrics.get("accuracy")
        if accuracy is not None and base_accuracy is not None and accuracy < base_accuracy - 0.1:
            found.append(
                f"{control.name} reaches {accuracy:.1%} where base has {base_accuracy:.1%}: a "
                "control that learned less makes every variant look preserved; train it longer"
            )
    return found


def _without_base(variant: Variant) -> Variant:
    return variant.model_copy(
        update={"status": "not_measured", "problem": "there is no base to compare with"}
    )


def _failed(variant: Variant, problem: str) -> Variant:
    return variant.model_copy(update={"status": "failed", "problem": problem, "measurement": None})


def _relative(path: Path, folder: RunFolder) -> str:
    return str(path.relative_to(folder.path))
