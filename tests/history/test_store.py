from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import StorageError, UnknownNameError, UsageError
from edgebench.history import History
from edgebench.history.connection import connect, reading, store_url, writing
from edgebench.records import Estimate, Variant


def rows(store: str, statement: str) -> list[tuple[object, ...]]:
    """What plain SQL finds in the store."""
    from sqlalchemy import text

    with reading(connect(store_url(store))) as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def execute(store: str, statement: str) -> None:
    from sqlalchemy import text

    with writing(connect(store_url(store))) as connection:
        connection.execute(text(statement))


def test_importing_the_package_does_not_import_sqlalchemy() -> None:
    code = "import sys, edgebench.history; print({'sqlalchemy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_run_comes_back_as_it_was(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    history.add(run(), tmp_path / "runs" / "one")
    record, folder = History.open(store).get(run().run_id)
    assert record == run()
    assert folder == tmp_path / "runs" / "one"


def test_the_summary_says_what_the_record_says(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    history.add(run(), tmp_path)
    (row,) = history.list()
    assert row.run_id == run().run_id
    assert row.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert (row.recipe, row.model, row.data) == ("quickstart", "lenet", "digits")
    assert (row.target, row.device_fingerprint) == ("local", "f" * 64)
    assert (row.verdict, row.exit_code, row.edgebench_version) == ("GO", 0, "0.1.0")
    assert row.folder == tmp_path
    assert row.best == "int8"


def test_no_variant_is_best_where_none_is_go(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    variants = tuple(v for v in run().variants if v.verdict != "GO")
    history.add(run(variants=variants, verdict=None, exit_code=4), tmp_path)
    (row,) = history.list()
    assert row.best is None
    assert row.verdict is None


def test_a_folder_is_kept_whole(store: str, tmp_path: Path, run, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = History.open(store)
    history.add(run(), Path("runs/one"))
    assert history.get(run().run_id)[1] == tmp_path / "runs" / "one"


def test_values_can_be_asked_for_by_sql(store: str, tmp_path: Path, run) -> None:
    History.open(store).add(run(), tmp_path)
    found = rows(
        store,
        'SELECT variant, metric, point, low, high FROM "values" ORDER BY variant, metric',
    )
    assert found == [
        ("base", "accuracy", 0.9, None, None),
        ("base", "latency_p50_ms", 2.0, 1.9, 2.1),
        ("base", "sqnr_db", None, None, None),
        ("int8", "latency_ratio", 0.7, None, 1.5),
        ("tiny", "latency_ratio", 0.2, None, 1.5),
    ]


def test_the_queries_of_a_series_have_their_indexes(tmp_path: Path, run) -> None:
    store = str(tmp_path / "history.sqlite")
    History.open(store)
    plan = rows(
        store,
        'EXPLAIN QUERY PLAN SELECT point FROM "values" WHERE variant = 1 AND metric = 2',
    )
    assert "ix_values_variant_metric" in str(plan)
    plan = rows(store, "EXPLAIN QUERY PLAN SELECT 1 FROM runs WHERE device_fingerprint = 1")
    assert "ix_runs_device_fingerprint" in str(plan)


def test_what_is_not_finite_is_kept_as_null(store: str, tmp_path: Path, run) -> None:
    wild = Estimate(point=float("inf"), low=float("nan"), high=float("-inf"), n=1, method="x")
    base = Variant(
        name="base", status="measured", metrics={"a": float("nan")}, comparisons={"b": wild}
    )
    history = History.open(store)
    history.add(run(variants=(base,)), tmp_path)
    assert rows(store, 'SELECT point, low, high FROM "values"') == [(None, None, None)] * 2
    assert history.get(run().run_id)[0].base.comparisons["b"].point is None


def test_adding_again_replaces(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    history.add(run(), tmp_path)
    history.add(run(), tmp_path)
    assert len(history.list()) == 1
    assert rows(store, 'SELECT count(*) FROM "values"') == [(5,)]
    judged_again = run(variants=run().variants[:1], verdict="NO-GO", exit_code=1)
    history.add(judged_again, tmp_path / "moved")
    assert history.get(run().run_id) == (judged_again, tmp_path / "moved")
    assert rows(store, 'SELECT count(*) FROM "values"') == [(3,)]


def test_newest_first_whatever_the_offset_and_the_order_of_adding(store, tmp_path, run) -> None:
    created = {
        "c": "2026-01-01T12:00:00+02:00",  # 10:00 UTC
        "a": "2026-01-01T11:00:00Z",
        "d": "2026-01-01T05:30:00-05:00",  # 10:30 UTC
        "b": "2026-01-01T09:00:00",
    }
    history = History.open(store)
    for run_id, when in created.items():
        history.add(run(run_id, created=when), tmp_path)
    assert [row.run_id for row in history.list()] == ["a", "d", "c", "b"]
    assert [row.run_id for row in history.list(limit=2)] == ["a", "d"]
    assert history.list()[2].created == datetime(2026, 1, 1, 10, tzinfo=timezone.utc)


def test_filters(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    for i, (recipe, target) in enumerate([("x", "local"), ("y", "local"), ("x", "jetson")]):
        history.add(run(f"r{i}", recipe={"name": recipe}, target={"name": target}), tmp_path)
    assert {row.run_id for row in history.list(recipe="x")} == {"r0", "r2"}
    assert {row.run_id for row in history.list(target="local")} == {"r0", "r1"}
    assert {row.run_id for row in history.list(recipe="x", target="jetson")} == {"r2"}
    assert history.list(recipe="z") == []
    with pytest.raises(UsageError, match="the limit must be 1 or more runs, not 0"):
        history.list(limit=0)


def test_a_unique_prefix_is_enough(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    for run_id in ("abc", "abcd", "abx", "a%"):
        history.add(run(run_id), tmp_path)
    assert history.get("abx")[0].run_id == "abx"
    assert history.get("abc")[0].run_id == "abc"  # exact, though abcd begins so too
    assert history.get("a%")[0].run_id == "a%"
    with pytest.raises(UsageError) as caught:
        history.get("ab")
    assert str(caught.value) == "3 runs begin with 'ab': abc, abcd, abx; give more of the id"
    with pytest.raises(UsageError, match="4 runs begin with ''"):
        history.get("")


def test_an_unknown_run_gets_the_nearest(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    with pytest.raises(UnknownNameError, match="unknown run 'x'; known: none"):
        history.get("x")
    history.add(run(), tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        history.get("20260102T030405-abcxef")
    assert str(caught.value) == (
        "unknown run '20260102T030405-abcxef'; did you mean '20260102T030405-abcdef'?"
    )


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
floats = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25, deadline=None)
@given(
    recipe=st.fixed_dictionaries({"name": names, "model": names, "data": names}),
    metrics=st.dictionaries(names, floats, max_size=4),
    created=st.datetimes(
        min_value=datetime(1990, 1, 1),
        timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    ),
)
def test_any_run_makes_the_round_trip(run, recipe, metrics, created) -> None:
    variants = (Variant(name="base", status="measured", metrics=metrics),)
    record = run(recipe=recipe, created=created.isoformat(), variants=variants)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "history.sqlite"))
        history = History.open(store)
        history.add(record, Path(folder))
        assert history.get(record.run_id)[0] == record
        (row,) = history.list()
        assert row.created == created
        assert (row.recipe, row.model) == (recipe["name"], recipe["model"])
        assert dict(rows(store, 'SELECT metric, point FROM "values"')) == metrics


def test_a_date_that_is_none_is_refused(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    with pytest.raises(UsageError, match="created of run r: 'soon' is not a date and time"):
        history.add(run("r", created="soon"), tmp_path)
    assert history.list() == []


def test_a_store_of_a_newer_edgebench_is_left_alone(store: str, run) -> None:
    History.open(store)
    execute(store, "UPDATE schema_version SET version = 2")
    with pytest.raises(StorageError) as caught:
        History.open(store)
    line = str(caught.value)
    assert line.endswith(
        ": this store was made by a newer edgebench (schema 2; this one reads 1); upgrade edgebench"
    )


def test_a_database_of_something_else_is_left_alone(store: str) -> None:
    execute(store, "CREATE TABLE runs (distance integer)")
    with pytest.raises(StorageError, match="there are tables called runs that edgebench did not"):
        History.open(store)
    assert rows(store, "SELECT * FROM runs") == []


def test_other_tables_beside_ours_do_no_harm(store: str, tmp_path: Path, run) -> None:
    execute(store, "CREATE TABLE shoes (size integer)")
    History.open(store).add(run(), tmp_path)
    assert len(History.open(store).list()) == 1


def test_an_altered_record_is_one_line(store: str, tmp_path: Path, run) -> None:
    history = History.open(store)
    history.add(run(), tmp_path)
    execute(store, 'UPDATE runs SET record = \'{"schema": "edgebench.run/9"}\'')
    with pytest.raises(StorageError, match=r"the record of run .* cannot be read; it was kept"):
        history.get(run().run_id)


def test_an_edit_in_sql_cannot_leave_values_of_no_run(store: str, tmp_path: Path, run) -> None:
    History.open(store).add(run(), tmp_path)
    execute(store, "DELETE FROM runs")
    assert rows(store, 'SELECT count(*) FROM "values"') == [(0,)]
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        execute(store, "INSERT INTO \"values\" (run_id, variant, metric) VALUES ('x', 'y', 'z')")
