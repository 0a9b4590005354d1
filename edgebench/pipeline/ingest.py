"""Judge what a device measured that no wire reaches."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgebench.errors import UnknownNameError, storage_error
from edgebench.history import History
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.judging import judge_folder
from edgebench.pipeline.main import publish, read_build
from edgebench.pipeline.progress import Progress
from edgebench.records import RunRecord
from edgebench.transports.bundle import unpack_results


def ingest_results(
    folder: RunFolder, results: Path, require: Sequence[str], progress: Progress
) -> RunRecord:
    """Unpack `results` into a run that was bundled, judge it, report it, remember it."""
    with folder.held():
        build = read_build(folder)
        for name in require:
            if name not in build.recipe["variants"]:
                raise UnknownNameError("variant", name, build.recipe["variants"], where="--require")
        history = History.open()
        progress.begin("read the results")
        arrived = folder.path / "results.new"
        previous = folder.path / "results.old"
        try:
            for leftover in (arrived, previous):
                shutil.rmtree(leftover, ignore_errors=True)
            unpack_results(results, arrived)
            if folder.results.exists():
                folder.results.rename(previous)
            arrived.rename(folder.results)
            try:
                run = judge_folder(folder, build, require, [])
            except BaseException:
                # What cannot be judged does not replace what was.
                folder.results.rename(arrived)
                if previous.exists():
                    previous.rename(folder.results)
                raise
        except OSError as error:
            raise storage_error(error, folder.results) from error
        finally:
            for leftover in (arrived, previous):
                shutil.rmtree(leftover, ignore_errors=True)
            progress.end()
        publish(run, folder, history, progress)
    return run
