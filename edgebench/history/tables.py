"""The tables of the store, version 1.

Only `store` imports this module, and only once a store is opened: mapped classes cannot be
written without importing SQLAlchemy, which is too slow for a command that needs no store.

Version 2 will migrate here: `MIGRATIONS[1]`, a list of statements, takes a store from version 1
to 2 inside the transaction in which `History.open` holds the writers' lock, and sets the row in
`schema_version` last, so that a store is always wholly of one version. The JSON in `runs.record`
has a version of its own and stays as it was written.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import DateTime, Dialect, ForeignKey, Index, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

VERSION = 1


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, timezone-aware in Python and in UTC in every database.

    SQLite has no such type and would drop the offset without a word.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; without an offset where the database keeps none."""
        if value is None:
            return None
        moment = value.astimezone(timezone.utc)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """To an aware moment in UTC."""
        if value is None:
            return None
        moment: datetime = value
        if moment.tzinfo is None:
            return moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc)


class Base(DeclarativeBase):
    """Base of all tables."""


class SchemaVersion(Base):
    """The version of all tables: one row."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Run(Base):
    """One run; `record` is its `run.json`."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_created", "created"),
        Index("ix_runs_device_fingerprint", "device_fingerprint"),
    )

    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    recipe: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    data: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text)
    device_fingerprint: Mapped[str] = mapped_column(Text)
    edgebench_version: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str | None] = mapped_column(Text)
    exit_code: Mapped[int]
    folder: Mapped[str] = mapped_column(Text)
    record: Mapped[str] = mapped_column(Text)

    values: Mapped[list[Value]] = relationship()


class Value(Base):
    """One metric of one variant of a run, with its interval; null where it is not finite."""

    __tablename__ = "values"
    __table_args__ = (Index("ix_values_variant_metric", "variant", "metric"),)

    run_id: Mapped[str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True
    )
    variant: Mapped[str] = mapped_column(Text, primary_key=True)
    metric: Mapped[str] = mapped_column(Text, primary_key=True)
    point: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
