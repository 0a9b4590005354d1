"""Plug-in families: found by scanning, joined by other people's packages, clear when broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebench.errors import EdgebenchError, UnknownNameError
from edgebench.registry import Registry


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Makes a registry for a package `family` whose modules are given as texts."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "family"
    folder.mkdir()

    def make(**modules: str) -> Registry:
        texts = {
            "__init__": "",
            "base": "from edgebench.registry import Registry\nTHINGS = Registry('thing', 'family')",
        }
        for name, text in {**texts, **modules}.items():
            (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        things: Registry = importlib.import_module("family.base").THINGS
        return things

    yield make
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "family":
            del sys.modules[name]


def member(name: str, value: str = "1") -> str:
    return f"from family.base import THINGS\nTHINGS.register({name!r})(lambda: {value})\n"


def test_members_are_found_by_scanning_the_folder(family) -> None:
    things = family(one=member("first"), two=member("second", "2"))
    assert things.names() == ["first", "second"]
    assert things.get("second")() == 2
    assert [name for name, _ in things.items()] == ["first", "second"]


def test_a_module_is_imported_only_when_the_family_is_asked_for(family) -> None:
    things = family(one=member("first"))
    assert "family.one" not in sys.modules
    things.names()
    assert "family.one" in sys.modules


def test_an_unknown_name_gets_the_nearest(family) -> None:
    things = family(one=member("prune"), two=member("distill"))
    with pytest.raises(UnknownNameError) as caught:
        things.get("Prun", where="r.yaml: variant 'x'")
    assert str(caught.value) == ("r.yaml: variant 'x': unknown thing 'Prun'; did you mean 'prune'?")
    assert (caught.value.kind, caught.value.name, caught.value.exit_code) == ("thing", "Prun", 2)


def test_a_name_like_none_gets_the_list(family) -> None:
    things = family(one=member("prune"), two=member("distill"))
    with pytest.raises(UnknownNameError, match="unknown thing 'zzz'; known: distill, prune"):
        things.get("zzz")
    with pytest.raises(UnknownNameError, match="unknown thing 'zzz'; known: none"):
        Registry("thing", "email").get("zzz")


def test_a_name_taken_twice_is_an_error(family) -> None:
    things = family(one=member("prune"), two=member("prune"))
    with pytest.raises(EdgebenchError, match="two things are registered as 'prune'"):
        things.names()


def test_the_same_member_may_come_twice(family) -> None:
    things = family(one=member("prune"))
    prune = things.get("prune")
    assert things.register("prune")(prune) is prune
    assert things.names() == ["prune"]


PLUGIN = """
from edgebench.techniques.base import TECHNIQUES, NoOptions, OnnxTechnique, Outcome

@TECHNIQUES.register("nothing-at-all")
class Nothing(OnnxTechnique):
    name = "nothing-at-all"
    summary = "copies the file"
    Options = NoOptions

    def apply(self, source, destination, options, context):
        destination.write_bytes(source.read_bytes())
        return Outcome()
"""

ASK = """
from edgebench.errors import EdgebenchError
from edgebench.techniques.base import TECHNIQUES
try:
    print(*TECHNIQUES.names())
except EdgebenchError as error:
    print(f"{type(error).__name__}: {error}")
"""


def installed(folder: Path, module: str) -> str:
    """What a new process says of the techniques, with a plug-in package installed."""
    (folder / "theirs.py").write_text(module)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgebench.plugins]\nmy-plugin = theirs\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ASK}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.removesuffix("\n")


def test_another_package_joins_by_its_entry_point(tmp_path: Path) -> None:
    names = installed(tmp_path, PLUGIN).split()
    assert "nothing-at-all" in names
    assert "ptq" in names


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("import package_of_nobody\n", "ModuleNotFoundError"),
        ("def (:\n", "SyntaxError"),
        ("raise ValueError('the first line\\nthe second line')\n", "the first line"),
        (PLUGIN.replace("nothing-at-all", "ptq"), "two techniques are registered as 'ptq'"),
    ],
)
def test_a_broken_plug_in_is_one_line_that_names_it(tmp_path: Path, module: str, text: str) -> None:
    line = installed(tmp_path, module)
    assert line.startswith("EdgebenchError: plug-in 'my-plugin' cannot be imported: ")
    assert text in line
    assert line.endswith("mend or uninstall theirs")
    assert "\n" not in line
