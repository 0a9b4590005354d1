"""Which int8 format a device answers rightly and fast in."""

from __future__ import annotations

from typing import Any

from edgebench.target import Target

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


def choose_int8(target: Target, device: dict[str, Any] | None) -> tuple[str, str]:
    """The quantization format for a target, and why.

    `device` is the agent's `device.json`; None where the device cannot be asked (a bundle).
    """
    if target.int8 != "auto":
        return target.int8, "named by the target"
    if device is None:
        return "s8s8-symmetric", (
            "the device could not be asked, and symmetric int8 runs on every runtime; it may be "
            "slower than the format of its own, which --set target.int8=FORMAT names"
        )
    identity = device["identity"]
    providers = target.runtime.providers
    used = identity.get("providers", []) if providers == "auto" else providers
    if any(provider in GPU_PROVIDERS for provider in used):
        return "s8s8-symmetric", "TensorRT and CUDA take symmetric int8 with a float bias"
    machine, flags = identity["machine"], set(identity["cpu_flags"])
    if machine in {"x86_64", "AMD64"}:
        if flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            return "u8s8", "the processor has VNNI: u8×s8 products do not saturate"
        return "u8s8-reduced", "no VNNI: x86 kernels saturate on 8-bit weights, so they get 7"
    return "s8s8", f"signed int8 on {machine}"
