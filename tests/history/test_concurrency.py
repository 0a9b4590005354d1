"""Several processes that make and fill one store at the same moment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from edgebench.history import History

PROCESSES = 4
RUNS = 6

# Everything is imported before the start, so that the processes really meet in the store.
WRITER = """
import sys, time
from pathlib import Path
import edgebench.history.tables
from edgebench.history import History
from edgebench.records import RunRecord
store, name, count, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
template = (folder / "run.json").read_text()
records = [RunRecord.model_validate_json(template.replace("RUN", f"{name}-{i}"))
           for i in range(count)]
shared = RunRecord.model_validate_json(template.replace("RUN", "shared"))
(folder / f"ready-{name}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
history = History.open(store)
for record in records:
    history.add(record, folder)
    history.add(shared, folder)
    history.list()
"""


def test_processes_make_and_fill_one_store_together(store: str, tmp_path: Path, run) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "run.json").write_text(run("RUN").model_dump_json())
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store, f"p{k}", str(RUNS), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(PROCESSES)
    ]
    try:
        give_up = time.monotonic() + 60
        while len(list(folder.glob("ready-*"))) < PROCESSES and time.monotonic() < give_up:
            time.sleep(0.005)
        (folder / "go").touch()
        for writer in writers:
            _, problem = writer.communicate(timeout=60)
            assert writer.returncode == 0, problem
    finally:
        for writer in writers:
            writer.kill()
    found = {row.run_id for row in History.open(store).list(limit=1000)}
    assert found == {f"p{k}-{i}" for k in range(PROCESSES) for i in range(RUNS)} | {"shared"}
