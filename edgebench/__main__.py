"""The command line's way in: one place that turns errors into lines and exit codes."""

from __future__ import annotations

import sys

from edgebench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EdgebenchError, one_line


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line with `arguments`; returns the exit code.

    Every error is one line on standard error; `--debug` shows where it came from.
    """
    from edgebench.cli.app import invoke

    debug = "--debug" in arguments
    try:
        return invoke(arguments)
    except EdgebenchError as error:
        if debug:
            raise
        _complain(error.line())
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("interrupted; what is done is kept: the same command goes on from there")
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        _complain(
            f"a defect in edgebench: {type(error).__name__}: {one_line(str(error))}; "
            "please report it with the output of the same command with --debug"
        )
        return EXIT_FAILED


def _complain(line: str) -> None:
    print(f"edgebench: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
