import pytest

from edgebench.errors import StorageError
from edgebench.records import RunRecord
from edgebench.report.base import RENDERERS, write_reports, write_run_json


def test_every_renderer_writes_its_file(run, tmp_path):
    paths = write_reports(run, tmp_path / "new")
    assert sorted(p.name for p in paths) == ["junit.xml", "metrics.csv", "report.html", "report.md"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)


@pytest.mark.parametrize("name", RENDERERS.names())
@pytest.mark.parametrize("kind", ["run", "hostile", "bare"])
def test_rendering_is_deterministic_and_can_be_stored(name, kind, request):
    record = request.getfixturevalue(kind)
    render = RENDERERS.get(name).render
    text = render(record)
    assert text == render(record)
    assert "\x1b" not in text
    assert text.encode("utf-8")


def test_run_json_comes_back_the_same(run, tmp_path):
    path = write_run_json(run, tmp_path)
    assert RunRecord.model_validate_json(path.read_text(encoding="utf-8")) == run


def test_a_disk_that_refuses_is_one_line_and_leaves_the_old_report(run, tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StorageError) as caught:
        write_run_json(run, tmp_path)
    assert "run.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_where_the_folder_should_be(run, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError):
        write_reports(run, tmp_path / "taken")
