"""What really ran: the providers that were taken, where operators ran, and in which numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

from .errors import AgentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .runtimes.base import Inspection, Runtime

# Saturated int8 kernels come to 9 to 12 dB, healthy ones, which differ by rounding, to 23 or more:
# docs/runtimes.md tells how that was seen.
SATURATED_DB = 18.0

# The wheels of ONNX Runtime that hold its providers; one wheel at a time can be installed.
PACKAGES = {
    "NvTensorRTRTXExecutionProvider": "onnxruntime-trt-rtx",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "DmlExecutionProvider": "onnxruntime-directml",
}

# Operators that only convert between floats and integers: ONNX's, OpenVINO's and torch's.
_CONVERSIONS = re.compile(
    r"(Dynamic)?QuantizeLinear|DequantizeLinear|FakeQuantize"
    r"|quantized_decomposed\.(de)?quantize_per_(tensor|channel)"
)


def resolve_providers(
    asked: Union[str, List[str]], offered: List[str], runtime: Runtime, python: str
) -> List[str]:
    """The providers to ask a session for; raises AgentError for one that is not offered.

    "auto" takes what the runtime offers of its accelerators, best first, then the processor.
    """
    if isinstance(asked, str):
        return [p for p in (*runtime.accelerators, runtime.processor) if p in offered]
    for provider in asked:
        if provider not in offered:
            needed = PACKAGES.get(provider)
            install = f"; {python} -m pip install {needed}" if needed else ""
            raise AgentError(
                "runtime",
                f"{runtime.title} here does not offer {provider}; "
                f"it offers {', '.join(offered)}{install}",
            )
    return asked


def provider_problems(plan: Dict[str, Any], taken: List[str], runtime: Runtime) -> List[str]:
    """Why a session's providers make its times invalid; empty where they are what was asked.

    A build for GPUs offers every accelerator it was compiled for, whether its libraries are
    installed or not. So under "auto" it is a fall-back only where none of them was taken.
    """
    left_out = [p for p in plan["providers"] if p not in taken]
    if not left_out:
        return []
    if not plan["auto"]:
        return [
            f"{provider} was asked for, but the session left it out and ran on {', '.join(taken)}"
            for provider in left_out
        ]
    if any(p in runtime.accelerators for p in taken):
        return []
    return [
        f"{runtime.title} offers {', '.join(left_out)}, but the session fell back to "
        f"{', '.join(taken)}"
    ]


def placement_problems(plan: Dict[str, Any], inspection: Inspection, runtime: Runtime) -> List[str]:
    """Why the places operators ran on make the times invalid.

    A session may take a provider and then give it nothing to do. Providers stand in order of
    preference, so each one before the first that ran anything was passed over; under "auto" that
    is a fall-back only where no accelerator ran anything.
    """
    ran = inspection.nodes
    if not any(ran.values()):
        # Everything was folded into constants: nothing ran anywhere.
        return []
    passed_over = []
    for provider in plan["providers"]:
        if ran.get(provider):
            break
        if provider != runtime.processor:
            passed_over.append(provider)
    if plan["auto"]:
        used = any(ran.get(p) for p in runtime.accelerators)
        passed_over = [] if used else passed_over
    return [
        f"{provider} was asked for, but no operator ran there: {_placed(inspection)}"
        for provider in passed_over
    ]


def inspection_notes(plan: Dict[str, Any], inspection: Inspection, runtime: Runtime) -> List[str]:
    """What a reader should know of valid times: a partial fall-back, saturation, idle int8."""
    notes = []
    special = [p for p in plan["providers"] if p != runtime.processor and inspection.nodes.get(p)]
    if special and len([p for p in inspection.nodes if inspection.nodes[p]]) > len(special):
        notes.append(f"only some operators ran where they were asked to: {_placed(inspection)}")
    saturated = saturation(inspection)
    if saturated is not None:
        notes += _saturation_notes(saturated, inspection)
    # OpenVINO's names are followed by the numbers they compute in.
    seen = {name.partition(" ")[0] for names in inspection.nodes.values() for name in names}
    if any(_CONVERSIONS.fullmatch(name) for name in seen) and not inspection.integer_operators:
        notes.append(
            "int8 in the file, float in the runtime: it converts integers, and no integer "
            "operator ran"
        )
    return notes


def inspection_record(inspection: Optional[Inspection]) -> Optional[Dict[str, Any]]:
    """The JSON form of an inspection, without its answers."""
    if inspection is None:
        return None
    return {
        "nodes": inspection.nodes,
        "integer_operators": inspection.integer_operators,
        "optimised_vs_unoptimised": saturation(inspection),
    }


def saturation(inspection: Inspection) -> Optional[Dict[str, Any]]:
    """How far the optimised session's answers are from those of the file as it is written.

    `sqnr_db`: signal to noise of the worst float output, null where there is no noise;
    `max_abs_difference` over all of them; `changed_predictions`: examples whose largest value of
    the first output is another one, null where it is no [N, C]; `n` examples. None where there is
    nothing to compare, or an answer is not finite.
    """
    import numpy as np

    if inspection.optimised is None or inspection.unoptimised is None:
        return None
    pairs = [
        (np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64))
        for got, wanted in zip(inspection.optimised, inspection.unoptimised)
        if got.dtype.kind == "f"
    ]
    if not pairs or any(g.shape != w.shape or g.size == 0 for g, w in pairs):
        return None
    if not all(np.isfinite(g).all() and np.isfinite(w).all() for g, w in pairs):
        return None
    ratios = [ratio for ratio in (_sqnr_db(g, w) for g, w in pairs) if ratio is not None]
    got, wanted = pairs[0]
    changed = None
    if inspection.optimised[0].dtype.kind == "f" and got.ndim == 2 and got.shape[1] > 1:
        changed = int((got.argmax(axis=1) != wanted.argmax(axis=1)).sum())
    return {
        "sqnr_db": round(min(ratios), 2) if ratios else None,
        "max_abs_difference": max(float(np.abs(g - w).max()) for g, w in pairs),
        "changed_predictions": changed,
        "n": len(got) if got.ndim else 1,
    }


def _sqnr_db(got: NDArray[Any], wanted: NDArray[Any]) -> Optional[float]:
    import numpy as np

    noise = float(((got - wanted) ** 2).sum())
    if noise == 0:
        return None
    # An answer of zeros alone has no signal; the least float keeps the ratio finite.
    signal = max(float((wanted**2).sum()), float(np.finfo(np.float64).tiny))
    return 10 * float(np.log10(signal / noise))


def _saturation_notes(seen: Dict[str, Any], inspection: Inspection) -> List[str]:
    ratio = seen["sqnr_db"]
    if ratio is None or ratio >= SATURATED_DB:
        return []
    changed = seen["changed_predictions"]
    other = "" if changed is None else f", {changed} of {seen['n']} predictions are others"
    if not inspection.integer_operators:
        return [
            f"the optimised session answers {ratio:.1f} dB away from what the file says{other}: "
            "the runtime computes in other numbers than the file, or wrongly"
        ]
    return [
        f"int8 saturates here: the answers are {ratio:.1f} dB away from what the file says "
        f"(healthy: over {SATURATED_DB:.0f}){other}; quantize with seven-bit weights (int8: "
        "u8s8-reduced) or set session_config session.x64quantprecision: '1'"
    ]


def _placed(inspection: Inspection) -> str:
    """Where operators ran, in words: `CPUExecutionProvider 12 (Conv 8, Relu 4)`."""
    parts = []
    for provider, operators in sorted(inspection.nodes.items()):
        most = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{operator} {count}" for operator, count in most[:4])
        more = ", …" if len(most) > 4 else ""
        parts.append(f"{provider} {sum(operators.values())} ({listed}{more})")
    return ", ".join(parts)
