"""Whether a manifest's scenarios are some this agent can run."""

from __future__ import annotations

import math
import re
from typing import Any, Dict, Iterator, Optional

KINDS = ("single-stream", "multi-stream", "server", "offline")
DRIVERS = ("edgebench", "loadgen")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WHOLE = {"batch": False, "min_queries": False, "threads": True, "samples": True}
_AMOUNTS = {"duration_s": False, "qps": True, "load": True, "target_latency_ms": True}


def scenario_problem(scenarios: Any) -> Optional[str]:
    """What is wrong with `protocol.scenarios`, as `[index].key: …`; None where nothing is."""
    if not isinstance(scenarios, list):
        return ": it is not a list"
    labels = set()
    for index, spec in enumerate(scenarios):
        wrong = _problem(spec)
        if wrong is not None:
            return f"[{index}]{wrong}"
        if spec["label"] in labels:
            return f"[{index}].label: {spec['label']!r} is there twice"
        labels.add(spec["label"])
    return None


def _problem(spec: Any) -> Optional[str]:
    if not isinstance(spec, dict):
        return " is not a JSON object"
    return next(_problems(spec), None)


def _problems(spec: Dict[str, Any]) -> Iterator[str]:
    """All that is wrong; what comes later relies on what came before."""
    for key, known in (("scenario", KINDS), ("driver", DRIVERS)):
        if spec.get(key) not in known:
            yield f".{key}: {spec.get(key)!r} is none of {', '.join(known)}"
    label = spec.get("label")
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        yield f".label: {label!r} is no label"
    for key, optional in {**_WHOLE, **_AMOUNTS}.items():
        if key not in spec:
            yield f".{key} is missing"
        value: Any = spec.get(key)
        if value is None and optional:
            continue
        kinds = (int,) if key in _WHOLE else (int, float)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            yield f".{key}: {value!r} is no positive {'whole ' if key in _WHOLE else ''}number"
    if spec["scenario"] == "server" and (spec["qps"] is None) == (spec["load"] is None):
        yield ": a server has either qps or load"
    if (spec["samples"] or spec["batch"]) % spec["batch"]:
        yield ".samples: they do not divide into batches"
