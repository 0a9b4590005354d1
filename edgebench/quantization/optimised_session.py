"""ONNX Runtime's optimised session of a file, opened in a process of its own.

Its optimiser has crashed on files that are valid (release 1.31, attention in half precision): that
must fail one variant and not the run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError, one_line

LIMIT_S = 600.0


def open_optimised(
    path: Path,
    *,
    level: str = "ORT_ENABLE_ALL",
    config: dict[str, str] | None = None,
    optimised: Path | None = None,
    profile: Path | None = None,
    inputs: Path | None = None,
) -> None:
    """Open a session on this host's processor; write its graph, or the profile of one inference.

    `level` is one of ONNX Runtime's, `config` entries of its session; `optimised` is the file to
    write, `profile` the beginning of its name, `inputs` the .npz file of examples to profile with.
    Raises BuildError, also where the process dies.
    """
    job = {
        "path": str(path),
        "level": level,
        "config": config or {},
        "optimised": None if optimised is None else str(optimised),
        "profile": None if profile is None else str(profile),
        "inputs": None if inputs is None else str(inputs),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgebench.quantization.optimised_session", json.dumps(job)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"ONNX Runtime did not open the file within {LIMIT_S:.0f} s") from None
    if done.returncode < 0:
        raise BuildError(
            f"ONNX Runtime crashed ({signal.Signals(-done.returncode).name}) on the optimised file",
            hint="another release of onnxruntime may run it",
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise BuildError(f"ONNX Runtime cannot run the file: {one_line(said, 200)}")


def main() -> int:
    """What the child does; the last line on standard error says why it failed."""
    import onnxruntime

    from edgebench.quantization.on_host import inputs_for

    job: dict[str, Any] = json.loads(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, job["level"])
    for key, value in job["config"].items():
        options.add_session_config_entry(key, value)
    if job["optimised"] is not None:
        options.optimized_model_filepath = job["optimised"]
    if job["profile"] is not None:
        options.enable_profiling = True
        options.profile_file_prefix = job["profile"]
    try:
        session = onnxruntime.InferenceSession(
            job["path"], options, providers=["CPUExecutionProvider"]
        )
        if job["profile"] is not None:
            session.run(None, inputs_for(session, _examples(job["inputs"])))
            session.end_profiling()
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        print(plain_message(error), file=sys.stderr)
        return 1
    return 0


def _examples(path: str | None) -> list[Any]:
    import numpy as np

    if path is None:
        return []
    with np.load(path, allow_pickle=False) as arrays:
        return list(arrays.values())


if __name__ == "__main__":
    sys.exit(main())
