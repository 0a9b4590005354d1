"""The store of past runs."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebench.errors import StorageError, UnknownNameError, UsageError
from edgebench.history.connection import connect, masked, reading, store_url, writing
from edgebench.records import Estimate, RunRecord, Variant

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgebench.history import tables


@dataclass(frozen=True)
class RunSummary:
    """One line of the history. `created` is in UTC.

    `best` is the fastest of the variants judged GO: the one with the lowest `latency_ratio`, or
    None where no variant is GO.
    """

    run_id: str
    created: datetime
    recipe: str
    model: str
    data: str
    target: str
    device_fingerprint: str
    edgebench_version: str
    verdict: str | None
    exit_code: int
    folder: Path
    best: str | None


class History:
    """Past runs, in a SQLite file or on a PostgreSQL server.

    Several processes may use one store at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str | None = None) -> History:
        """The store at `url`, else at EDGEBENCH_STORE, else the user's own; made where it is not.

        `url` is an SQLAlchemy URL (postgresql+psycopg://...) or the path of a SQLite file.
        Raises UsageError for a URL that cannot be used, and StorageError where the store is out
        of reach, is no store, or was made by a newer edgebench.
        """
        engine = connect(store_url(url))
        if not _is_current(engine):
            _create(engine)
        return cls(engine)

    def add(self, run: RunRecord, folder: Path) -> None:
        """Keep `run`, whose files lie in `folder`.

        Adding a run again replaces it, so that the store says what `run.json` says.
        """
        from sqlalchemy import delete
        from sqlalchemy.orm import Session

        from edgebench.history.tables import Run

        row = _row(run, folder)
        with writing(self._engine) as connection, Session(connection) as session:
            session.execute(delete(Run).where(Run.run_id == run.run_id))
            session.add(row)
            session.flush()

    def list(
        self, *, recipe: str | None = None, target: str | None = None, limit: int = 20
    ) -> list[RunSummary]:
        """The `limit` newest runs, newest first; only those of `recipe` and `target` if given."""
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        from edgebench.history.tables import Run

        if limit < 1:
            raise UsageError(f"the limit must be 1 or more runs, not {limit}")
        query = select(Run).order_by(Run.created.desc(), Run.run_id.desc()).limit(limit)
        if recipe is not None:
            query = query.where(Run.recipe == recipe)
        if target is not None:
            query = query.where(Run.target == target)
        with reading(self._engine) as connection, Session(connection) as session:
            return [_summary(row) for row in session.scalars(query)]

    def records(
        self,
        *,
        recipe: str | None = None,
        model: str | None = None,
        target: str | None = None,
        limit: int = 200,
    ) -> tuple[tuple[RunRecord, ...], int]:
        """The `limit` newest runs as they were, oldest first, and how many could not be read.

        Only those of `recipe`, `model` and `target` if given. A record of another version of
        edgebench is left out and counted.
        """
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        from edgebench.history.tables import Run

        if limit < 1:
            raise UsageError(f"the limit must be 1 or more runs, not {limit}")
        query = select(Run.record).order_by(Run.created.desc(), Run.run_id.desc()).limit(limit)
        for column, wanted in ((Run.recipe, recipe), (Run.model, model), (Run.target, target)):
            if wanted is not None:
                query = query.where(column == wanted)
        with reading(self._engine) as connection, Session(connection) as session:
            texts = session.scalars(query).all()
        records = []
        for text in reversed(texts):
            # A record that is no longer understood must not hide all others.
            with suppress(ValidationError):
                records.append(RunRecord.model_validate_json(text))
        return tuple(records), len(texts) - len(records)

    def get(self, run_id: str) -> tuple[RunRecord, Path]:
        """The record and the folder of the run called `run_id`, or whose id begins so.

        Raises UnknownNameError where there is none, and UsageError where there are several.
        """
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        from edgebench.history.tables import Run

        with reading(self._engine) as connection, Session(connection) as session:
            known = session.scalars(select(Run.run_id).order_by(Run.run_id)).all()
            fitting = [run_id] if run_id in known else [k for k in known if k.startswith(run_id)]
            if len(fitting) > 1:
                shown = ", ".join(fitting[:5]) + (", …" if len(fitting) > 5 else "")
                raise UsageError(
                    f"{len(fitting)} runs begin with '{run_id}': {shown}",
                    hint="give more of the id",
                )
            if not fitting:
                raise UnknownNameError("run", run_id, known)
            row = session.get_one(Run, fitting[0])
            text, folder = row.record, Path(row.folder)
        try:
            return RunRecord.model_validate_json(text), folder
        except ValidationError as error:
            raise StorageError(
                f"the record of run {fitting[0]} cannot be read",
                where=masked(self._engine.url),
                hint="it was kept by another version of edgebench, or was altered",
            ) from error


def _is_current(engine: Engine) -> bool:
    """Whether the store has tables of this version; False where it has none at all.

    Raises StorageError where it has other ones.
    """
    from sqlalchemy import inspect, select

    from edgebench.history.tables import VERSION, Base, SchemaVersion

    with reading(engine) as connection:
        present = set(inspect(connection).get_table_names()) & set(Base.metadata.tables)
        if not present:
            return False
        found = None
        if "schema_version" in present:
            found = connection.scalar(select(SchemaVersion.version))
    if found is None:
        raise StorageError(
            f"there are tables called {', '.join(sorted(present))} that edgebench did not make",
            where=masked(engine.url),
            hint="use a database or a schema of its own",
        )
    if found > VERSION:
        raise StorageError(
            f"this store was made by a newer edgebench (schema {found}; this one reads {VERSION})",
            where=masked(engine.url),
            hint="upgrade edgebench",
        )
    return True


def _create(engine: Engine) -> None:
    """Make the tables, unless another process did so since they were looked for."""
    from sqlalchemy import insert, inspect

    from edgebench.history.tables import VERSION, Base, SchemaVersion

    with writing(engine) as connection:
        if not inspect(connection).has_table("schema_version"):
            Base.metadata.create_all(connection)
            connection.execute(insert(SchemaVersion).values(version=VERSION))


def _row(run: RunRecord, folder: Path) -> tables.Run:
    from edgebench.history.tables import Run, Value

    return Run(
        run_id=run.run_id,
        created=_moment(run),
        recipe=_text(run.recipe, "name"),
        model=_text(run.recipe, "model"),
        data=_text(run.recipe, "data"),
        target=_text(run.target, "name"),
        device_fingerprint=_text(run.device, "fingerprint"),
        edgebench_version=run.edgebench_version,
        verdict=run.verdict,
        exit_code=run.exit_code,
        folder=str(folder.resolve()),
        record=run.model_dump_json(),
        values=[
            Value(run_id=run.run_id, variant=variant.name, metric=metric, **interval)
            for variant in run.variants
            for metric, interval in _values(variant).items()
        ],
    )


def _values(variant: Variant) -> dict[str, dict[str, float | None]]:
    """Point, low and high of every metric of a variant, by metric."""
    values = {
        metric: {"point": _finite(value), "low": None, "high": None}
        for metric, value in variant.metrics.items()
    }
    for estimates in (variant.intervals, variant.comparisons):
        for metric, estimate in estimates.items():
            values[metric] = _interval(estimate)
    return values


def _interval(estimate: Estimate) -> dict[str, float | None]:
    return {
        "point": _finite(estimate.point),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(record: dict[str, Any], key: str) -> str:
    return str(record.get(key) or "")


def _moment(run: RunRecord) -> datetime:
    """When the run was made; UTC where it does not say."""
    try:
        # Python 3.10 does not read the Z.
        moment = datetime.fromisoformat(run.created.replace("Z", "+00:00"))
    except ValueError as error:
        raise UsageError(
            f"'{run.created}' is not a date and time",
            where=f"created of run {run.run_id}",
            hint="write it as 2026-01-31T12:00:00Z",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _summary(row: tables.Run) -> RunSummary:
    return RunSummary(
        run_id=row.run_id,
        created=row.created,
        recipe=row.recipe,
        model=row.model,
        data=row.data,
        target=row.target,
        device_fingerprint=row.device_fingerprint,
        edgebench_version=row.edgebench_version,
        verdict=row.verdict,
        exit_code=row.exit_code,
        folder=Path(row.folder),
        best=_best(json.loads(row.record)),
    )


def _best(record: dict[str, Any]) -> str | None:
    """The fastest variant that is GO."""
    speeds = [
        (variant["comparisons"]["latency_ratio"]["point"], variant["name"])
        for variant in record["variants"]
        if variant["verdict"] == "GO" and "latency_ratio" in variant["comparisons"]
    ]
    timed = [(ratio, name) for ratio, name in speeds if ratio is not None]
    return min(timed)[1] if timed else None
