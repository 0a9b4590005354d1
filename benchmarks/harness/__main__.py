"""Runs the proof: `python -m benchmarks.harness` from the repository's root.

Every trial is kept as soon as it is over. The same call again goes on where it stopped, and a call
with more trials adds to what is there; --page writes the page of what there is and runs nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.harness import false_alarms, omission, page, power, summary, terminal, truth
from benchmarks.harness.log import Log, command_line
from benchmarks.harness.measuring import NoMeasurementError
from benchmarks.harness.models import SUBJECTS
from benchmarks.harness.noise import CONDITIONS, NoiseError
from benchmarks.harness.others import RUNNERS
from benchmarks.harness.setting import Setting, pinned_cpu
from edgebench.agent.errors import AgentError

_POWER_PROFILE = {0.03: "standard", 0.01: "rigorous"}


def main() -> int:
    """Run what was asked for; gives the exit code."""
    options = _parser().parse_args()
    # Also a polite kill ends the load and the workers, and removes the scratch folder.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = Log(options.out)
    if not options.page:
        with tempfile.TemporaryDirectory(prefix="edgebench-harness-") as work:
            try:
                _run(options, log, Path(work))
            except KeyboardInterrupt:
                print("stopped; the same command goes on from here", file=sys.stderr)
                return 130
            except (NoiseError, NoMeasurementError, AgentError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 5
    rows = log.rows()
    print(terminal.as_text(summary.tables(rows)))
    if rows:
        print(f"\nwritten: {page.write(rows, options.report or options.out)}")
    return 0


def _run(options: argparse.Namespace, log: Log, work: Path) -> None:
    setting = Setting(
        log=log,
        work=work,
        cpu=pinned_cpu(),
        seed=options.seed,
        command=command_line(sys.argv[1:]),
        every=options.every,
        rules=tuple(options.rules),
        deadline=time.monotonic() + 60 * options.minutes,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    for name in options.only:
        _EXPERIMENTS[name](setting, options)


def _aa(setting: Setting, options: argparse.Namespace) -> None:
    trials = options.trials or 200
    for subject in options.model or ["separable-1ms"]:
        profile = options.profile or "quick"
        false_alarms.run(setting, options.condition, trials, subject, profile)


def _power(setting: Setting, options: argparse.Namespace) -> None:
    for effect in options.effect:
        # 72 of 72 show 95 %, no fewer do; a rigorous trial takes minutes.
        trials = options.trials or (72 if effect >= 0.03 else 20)
        profile = options.profile or _POWER_PROFILE.get(effect, "standard")
        for subject in options.model or ["separable-1ms", "lenet"]:
            power.run(setting, options.condition, trials, subject, profile, effect)


def _truth(setting: Setting, options: argparse.Namespace) -> None:
    trials, profile = options.trials or 3, options.profile or "quick"
    # What a loop adds is told from what the machine does only where that is quiet.
    truth.run(setting, ["idle"], trials, options.model or list(SUBJECTS), profile)


def _omission(setting: Setting, options: argparse.Namespace) -> None:
    for subject in options.model or ["separable-1ms"]:
        omission.run(setting, options.trials or 3, subject)


_EXPERIMENTS: dict[str, Callable[[Setting, argparse.Namespace], None]] = {
    "truth": _truth,
    "omission": _omission,
    "power": _power,
    "aa": _aa,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness",
        description=__doc__.splitlines()[0],
        # The log tells the options by their whole names.
        allow_abbrev=False,
    )
    parser.add_argument(
        "--only", type=_names(_EXPERIMENTS), default=list(_EXPERIMENTS), help="experiments"
    )
    parser.add_argument("--trials", type=_whole, help="of each, those already there included")
    parser.add_argument(
        "--condition", type=_names(CONDITIONS), default=list(CONDITIONS), help="of aa and power"
    )
    parser.add_argument("--model", type=_names(SUBJECTS), help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--profile", choices=("quick", "standard", "rigorous"))
    parser.add_argument(
        "--effect", type=_effects, default=[0.03, 0.01], help="of power: 0.03 is 3 %% slower"
    )
    parser.add_argument(
        "--rules", type=_names(RUNNERS), default=list(RUNNERS), help="other tools'; '' for none"
    )
    parser.add_argument("--every", type=_whole, default=4, help="run those in each so manyth trial")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no trial after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/harness"), help="for trials.jsonl")
    parser.add_argument("--report", type=Path, help="folder of the page; default: as --out")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    names = list(known)

    def read(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(names)}")
        return chosen

    return read


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return value


def _effects(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of shares such as 0.03,0.01")
    return values


if __name__ == "__main__":
    sys.exit(main())
