"""The example run, and one in which every text is an attack."""

from pathlib import Path

import pytest

from edgebench.records import Landscape, Reason, RunRecord, ScenarioResult

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


@pytest.fixture(scope="session")
def invalid(run):
    """The example where base's and int8's measurements are no evidence, judged accordingly."""
    whys = {"base": "the device slowed itself down", "int8": "CUDA was left out"}
    variants = []
    for v in run.variants:
        own = "" if v.name == "base" else whys.get(v.name, "")
        text = (
            f"the measurement is not valid: {own}"
            if own
            else f"base's measurement is not valid: {whys['base']}"
        )
        update = {
            "reasons": tuple(
                r.model_copy(update={"verdict": "INCONCLUSIVE", "text": text}) for r in v.reasons
            )
        }
        if v.verdict:
            update["verdict"] = "INCONCLUSIVE"
        if v.name in whys:
            update["measurement"] = v.measurement.model_copy(
                update={"valid": False, "invalid_reasons": (whys[v.name],)}
            )
        variants.append(v.model_copy(update=update))
    return run.model_copy(update={"variants": tuple(variants), "verdict": "INCONCLUSIVE"})


@pytest.fixture(scope="session")
def scenarios(run):
    """The example with a server scenario for base, and one that int8 cannot keep up with."""

    def server(name):
        ratio = run.variant(name).comparisons["latency_ratio"]
        return ScenarioResult(
            label="server-qps200",
            scenario="server",
            driver="edgebench",
            settings={"batch": 1, "qps": 200.0, "duration_s": 2.0},
            valid=name == "base",
            invalid_reasons=() if name == "base" else ("cannot keep up",),
            queries=1200,
            processes=6,
            metrics={"p99_ms": ratio.model_copy(update={"point": 12.5, "low": 12.0, "high": 13.0})},
            ratios={"p99": ratio},
        )

    variants = tuple(
        v.model_copy(update={"scenarios": (server(v.name),)}) if v.name in {"base", "int8"} else v
        for v in run.variants
    )
    return run.model_copy(update={"variants": variants})
