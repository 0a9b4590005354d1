"""Which providers were asked for, and whether a session quietly left one out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import AgentError

if TYPE_CHECKING:
    from .runtimes.base import Runtime


def resolve_providers(
    asked: str | list[str], offered: list[str], runtime: Runtime, python: str
) -> list[str]:
    """The providers to ask a session for; raises AgentError for one that is not offered.

    "auto" takes what the runtime offers of its accelerators, best first, then the processor.
    """
    if isinstance(asked, str):
        return [p for p in (*runtime.accelerators, runtime.processor) if p in offered]
    for provider in asked:
        if provider not in offered:
            needed = f"{runtime.package}-gpu" if provider in runtime.accelerators else None
            install = f"; {python} -m pip install {needed}" if needed else ""
            raise AgentError(
                "runtime",
                f"{runtime.title} here does not offer {provider}; "
                f"it offers {', '.join(offered)}{install}",
            )
    return asked


def provider_problems(plan: dict[str, Any], taken: list[str], runtime: Runtime) -> list[str]:
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
