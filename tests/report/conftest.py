"""The example run, and one in which every text is an attack."""

from pathlib import Path

import pytest

from edgebench.records import Landscape, Reason, RunRecord

EXAMPLE = Path(__file__).parent / "example_run.json"
HOSTILE = "<script>alert(1)</script>|`x`\x00\x1b[31m\u202e $\\frac{$ [a](http://evil.example) ]]>"


@pytest.fixture(scope="session")
def run():
    return RunRecord.model_validate_json(EXAMPLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def hostile(run):
    """Names, problems, reasons, notes, recipe, device: all hold markup and control characters."""
    names = {v.name: f"{HOSTILE}{i}" for i, v in enumerate(run.variants) if v.name != "base"}
    variants = tuple(
        v.model_copy(
            update={
                "name": names.get(v.name, v.name),
                "problem": HOSTILE,
                "notes": (HOSTILE,),
                "chain": ({"technique": HOSTILE, HOSTILE: HOSTILE},),
                "reasons": tuple(
                    Reason(gate=HOSTILE, metric=HOSTILE, verdict=r.verdict, text=HOSTILE)
                    for r in v.reasons
                ),
                "metrics": v.metrics | {HOSTILE: 1.0},
            }
        )
        for v in run.variants
    )
    points = {names.get(n, n): xy for n, xy in run.landscape.points.items()}
    return run.model_copy(
        update={
            "run_id": HOSTILE,
            "recipe": run.recipe | {"name": HOSTILE, "model": HOSTILE},
            "target": {"name": HOSTILE, "description": HOSTILE},
            "device": {"grade": HOSTILE, "identity": [HOSTILE], "state": {HOSTILE: HOSTILE}},
            "data": {"name": HOSTILE, "test": HOSTILE},
            "versions": {HOSTILE: HOSTILE},
            "warnings": (HOSTILE,),
            "verdict_text": HOSTILE,
            "variants": variants,
            "landscape": Landscape(points=points, stress=0.1, method=HOSTILE),
        }
    )


@pytest.fixture(scope="session")
def bare(run):
    """A run that failed before anything was measured: base alone, no device, no recipe."""
    base = run.base.model_copy(
        update={
            "status": "not_measured",
            "problem": "the target was not reached",
            "artifact": None,
            "metrics": {},
            "intervals": {},
            "comparisons": {},
            "measurement": None,
        }
    )
    return run.model_copy(
        update={
            "variants": (base,),
            "recipe": {},
            "target": {},
            "device": {},
            "data": {},
            "versions": {},
            "landscape": None,
            "stages": (),
            "warnings": (),
            "verdict": None,
            "verdict_text": "",
            "exit_code": 4,
        }
    )
