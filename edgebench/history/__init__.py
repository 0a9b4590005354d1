"""The store of past runs: an embedded SQLite file, or a PostgreSQL server that a team shares."""

from edgebench.history.store import History, RunSummary
from edgebench.history.table import findings_table, history_table

__all__ = ["History", "RunSummary", "findings_table", "history_table"]
