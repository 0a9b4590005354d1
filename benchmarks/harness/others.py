"""The rules other tools use to call a model slower, each as its own package does it.

Each rule times base, then the variant, one after the other, pinned to the processor the agent uses,
with one thread and one input. pytest-benchmark and pyperf are run themselves; of the others, whose
packages need torch or a build of their own, the loop is written again in `arms/in_process.py`.

| rule | source |
|---|---|
| olive | microsoft/Olive, `olive/evaluator/metric_config.py` (WARMUP_NUM 10, REPEAT_TEST_NUM 20), `OliveEvaluator.latency_helper` (avg = sum/len); a goal `percent-max-degradation` bounds it |
| optimum-benchmark | huggingface/optimum-benchmark, `scenarios/inference/config.py` (duration 10 s, iterations 10, warmup_runs 10), `trackers/latency.py` (mean); no rule of comparison: the limits are ours |
| onnxruntime_perf_test | microsoft/onnxruntime, `onnxruntime/test/perftest/performance_runner.{h,cc}`: one warm-up, `-r 1000` (the default of `-m times`), total time over repeats; no rule of comparison |
| pytest-benchmark min, mean | `--benchmark-compare-fail=min:5%`, the package's own `PercentageRegressionCheck`, defaults (min_rounds 5, max_time 1 s, min_time 5 µs) |
| pyperf | psf/pyperf, `python -m pyperf compare_to`, alone and with `--min-speed`: a two-sample t-test at 95 %, defaults (20 processes, 3 values each) |
"""  # noqa: E501 - table rows

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARMS = Path(__file__).parent / "arms"
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Job:
    """Two models to be compared: their file and inputs, and the processor to time them on.

    `slower`: the second one is slower by that share of the median call that the rule itself times.
    """

    model: Path
    inputs: Path
    slower: float
    cpu: int
    out: Path

    @property
    def delays(self) -> tuple[str, str]:
        """Those of the first and of the second; both are calibrated, and so warmed, or none is."""
        return ("share:0", f"share:{self.slower:g}") if self.slower else ("none", "none")

    @property
    def preparing(self) -> Path:
        """Where the arms note the seconds that went into making a model slower."""
        return self.out / "preparing.txt"


class RuleError(Exception):
    """A rule could not be run; the text says why."""


def _run(arguments: list[str], job: Job, delay: str) -> None:
    environment = {
        **os.environ,
        "HARNESS_MODEL": str(job.model),
        "HARNESS_INPUTS": str(job.inputs),
        "HARNESS_DELAY": delay,
        "HARNESS_PREPARING": str(job.preparing),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ARMS.parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_LIMIT_S,
        preexec_fn=lambda: os.sched_setaffinity(0, {job.cpu}),
        check=False,
    )
    if done.returncode != 0:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise RuleError(lines[-1] if lines else "it failed without a word")


def _in_process(kind: str) -> Callable[[Job], dict[str, Any]]:
    def run(job: Job) -> dict[str, Any]:
        out = job.out / f"{kind}.json"
        both = kind == "olive"
        delays = [",".join(job.delays)] if both else list(job.delays)
        means: list[float] = []
        for delay in delays:
            _run(["-m", "benchmarks.harness.arms.in_process", kind, str(out)], job, delay)
            means += json.loads(out.read_text(encoding="utf-8"))
        return {kind: {"ratio": means[1] / means[0]}}

    return run


def _pytest_benchmark(job: Job) -> dict[str, Any]:
    from pytest_benchmark.utils import PercentageRegressionCheck

    settings = job.out / "pytest.ini"
    settings.write_text("[pytest]\n", encoding="utf-8")
    stats = []
    for arm, delay in zip("ab", job.delays, strict=True):
        saved = job.out / f"pytest-{arm}.json"
        arguments = ["-m", "pytest", "-q", "-c", str(settings), "-p", "no:cacheprovider"]
        arguments += ["--benchmark-only", f"--benchmark-json={saved}", str(ARMS / "arm_pytest.py")]
        _run(arguments, job, delay)
        stats.append(json.loads(saved.read_text(encoding="utf-8"))["benchmarks"][0]["stats"])
    return {
        f"pytest-benchmark {field}": {
            "ratio": stats[1][field] / stats[0][field],
            "fails": {
                str(limit): PercentageRegressionCheck(field, limit).fails(stats[1], stats[0])
                is not None
                for limit in LIMITS
            },
        }
        for field in ("min", "mean")
    }


def _pyperf(job: Job) -> dict[str, Any]:
    import pyperf
    from pyperf._compare import CompareData, CompareResult

    found = []
    for arm, delay in zip("ab", job.delays, strict=True):
        saved = job.out / f"pyperf-{arm}.json"
        saved.unlink(missing_ok=True)
        script = str(ARMS / "arm_pyperf.py")
        arguments = [script, "-q", "--copy-env", f"--affinity={job.cpu}", "-o", str(saved)]
        _run(arguments, job, delay)
        found.append(CompareData(arm, pyperf.Benchmark.load(str(saved))))
    compared = CompareResult(*found)
    slower = compared.norm_mean > 1
    return {
        "pyperf": {
            "ratio": compared.norm_mean,
            "significant": bool(compared.significant),
            "fails": {
                str(limit): bool(slower and CompareResult(*found, min_speed=limit).significant)
                for limit in LIMITS
            },
        },
    }


# The relative limits the rules without a test of their own are judged at, in percent.
LIMITS = (5, 2)

RUNNERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "olive": _in_process("olive"),
    "optimum-benchmark": _in_process("optimum-benchmark"),
    "onnxruntime_perf_test": _in_process("onnxruntime_perf_test"),
    "pytest-benchmark": _pytest_benchmark,
    "pyperf": _pyperf,
}


def run_rules(job: Job, names: Sequence[str]) -> dict[str, Any]:
    """What each rule found, with the seconds it took; a rule that failed has a `problem`."""
    job.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in names:
        start = time.monotonic()
        job.preparing.write_text("", encoding="utf-8")
        try:
            results = RUNNERS[name](job)
        except (RuleError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            results = {name: {"problem": str(error)}}
        preparing = sum(float(line) for line in job.preparing.read_text().splitlines())
        seconds = round(time.monotonic() - start - preparing, 3)
        found |= {rule: {**result, "seconds": seconds} for rule, result in results.items()}
    return found


def says_slower(result: Mapping[str, Any], limit: int | None) -> bool | None:
    """Whether a rule calls the variant slower, at a limit of so many percent; None: it failed.

    Without a limit it has to have a test of its own (pyperf's, for any difference).
    """
    if "problem" in result:
        return None
    if limit is None:
        return bool(result["significant"] and result["ratio"] > 1)
    if "fails" in result:
        return bool(result["fails"][str(limit)])
    return bool(result["ratio"] > 1 + limit / 100)


def title(rule: str, limit: int | None = None) -> str:
    """A rule with its limit, as its tool would write it where it knows one."""
    if rule.startswith("pytest-benchmark") and limit is not None:
        return f"{rule}:{limit}%"
    if rule == "pyperf":
        return rule if limit is None else f"pyperf --min-speed={limit}"
    named = "onnxruntime_perf_test -m times -r 1000" if rule == "onnxruntime_perf_test" else rule
    return named if limit is None else f"{named} >{limit}%"
