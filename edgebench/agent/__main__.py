"""The agent's command line: probe, run, or (in an unpacked bundle) nothing at all."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import plan, worker
from .errors import AgentError, HangupError, one_line
from .results import pack_results

_EXIT_INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the agent; gives its exit code."""
    if arguments[:1] == ["worker"]:
        return worker.main(arguments[1], int(arguments[2]))
    if arguments[:1] == ["describe"]:
        print(json.dumps(worker.describe(arguments[1])), flush=True)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    options = _parser().parse_args(arguments)
    try:
        if options.command == "probe":
            _emit(plan.probe(options.runtime, Path(options.root)))
        elif options.command == "run":
            if options.parent is not None:
                _end_with(options.parent)
            plan.run_plan(
                Path(options.bundle),
                Path(options.out),
                _emit,
                pace=_await_line if options.paced else None,
                listener_fd=sys.stdout.fileno(),
            )
        else:
            return _run_here()
    except AgentError as error:
        _emit({"event": "error", "problem": error.problem, "code": error.code})
        return error.exit_code
    except (HangupError, BrokenPipeError, KeyboardInterrupt):
        _silence()
        return _EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent.pyz", description="Measures models on this device")
    commands = parser.add_subparsers(dest="command")
    probe = commands.add_parser("probe", help="print what this device is, as JSON")
    probe.add_argument("--runtime", default="onnxruntime")
    probe.add_argument("--root", default="/", help="read /proc, /sys and /etc below this folder")
    run = commands.add_parser("run", help="run the plan of a bundle")
    run.add_argument("bundle", help="a folder, or the zip of one")
    run.add_argument("--out", required=True, help="the results folder")
    run.add_argument(
        "--paced",
        action="store_true",
        help="after each model, wait for a line on standard input (end of file: stop)",
    )
    run.add_argument("--parent", type=int, help="end when this parent process ends")
    return parser


def _run_here() -> int:
    """The bundle carried by hand: manifest.json lies beside the agent, or in this folder."""
    beside = Path(sys.argv[0]).absolute().parent
    folder = next((f for f in (beside, Path.cwd()) if (f / "manifest.json").is_file()), None)
    if folder is None:
        _say(f"there is no manifest.json in {beside}: unpack the bundle and start agent.pyz in it")
        return 2
    try:
        plan.run_plan(folder, folder / "results", _tell)
        pack_results(folder / "results", folder / "results.zip")
    except AgentError as error:
        _say(f"error: {error.problem}")
        return error.exit_code
    except OSError as error:
        _say(f"error: results.zip cannot be written: {error}")
        return 5
    _say(f"results are in {folder / 'results.zip'}")
    _say("carry results.zip back and run: edgebench ingest results.zip RUN")
    _say("RUN is the folder that edgebench bundle named")
    return 0


def _tell(event: dict[str, Any]) -> None:
    """Progress for a person."""
    if event["event"] == "process":
        _say(
            f"{event['name']}: process {event['process'] + 1} of {event['of']}, "
            f"about {event['seconds_left']:.0f} s left"
        )
    elif event["event"] == "done":
        problem = f": {event['problem']}" if event["problem"] else ""
        already = " (already there)" if event["reused"] else ""
        _say(f"{event['name']}: {event['status']}{already}{problem}")


def _say(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)


def _emit(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _await_line() -> None:
    if not sys.stdin.readline():
        raise HangupError


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """End when the parent does; workers end with this process in turn."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise HangupError


def _silence() -> None:
    """Python flushes standard output once more at its end; nobody is there to read it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
