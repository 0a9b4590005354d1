from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.errors import EdgebenchError, RecipeError, UnknownNameError, UsageError
from edgebench.recipe import Gate, load_recipe, read_policy
from edgebench.target import load_target, target_files

GOOD = """
model: lenet
data: digits
variants:
  int8: [{technique: ptq, bits: 8}]
protocol: quick
gates: [{metric: latency_ratio, max: 1.0}]
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "mine"
    assert recipe.variants["int8"][0].options == {"bits": 8}
    assert recipe.controls.independent == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: lenet", "modle: lenet", "did you mean 'model'?"),
        ("model: lenet", "", "lacks 'model'"),
        ("max: 1.0", "maxi: 1.0", "did you mean 'max'?"),
        ("max: 1.0", "max: fast", "should be a valid number"),
        ("{metric: latency_ratio, max: 1.0}", "{metric: latency_ratio}", "neither min nor max"),
        ("max: 1.0", "max: 1.0, min: 2.0", "min above max"),
        ("int8:", "Int 8:", "cannot name a variant"),
        ("int8:", "base:", "is a name edgebench gives itself"),
        ("int8:", "independent-3:", "is a name edgebench gives itself"),
        ("int8: [{technique: ptq, bits: 8}]", "int8: []", "empty chain"),
        ("[{technique: ptq, bits: 8}]", "[ptq]", "should be a mapping"),
        ("technique: ptq", "tecnique: ptq", "lacks"),
        ("protocol: quick", "protocol: quik", "did you mean 'quick'?"),
        ("protocol: quick", "protocol: {pair: 3}", "did you mean 'pairs'?"),
        ("protocol: quick", "protocol: {block_s: -1}", "greater than 0"),
        ("protocol: quick", "protocol: 7", "neither a profile's name nor a mapping"),
        ("data: digits", "data: digits\ndata: mnist", "stands here twice"),
        ("data: digits", "data: [", "not valid YAML"),
        ("data: digits", "data: digits\nseed: 1.5", "valid integer"),
        ("data: digits", "data: digits\n3: x", "not a word"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(EdgebenchError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(old, new)))
    line = caught.value.line()
    assert said in line
    assert "\n" not in line
    assert caught.value.exit_code == 2
    assert "mine.yaml" in line


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "42"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="not a mapping"):
        load_recipe(write(tmp_path, text))


def test_yaml_that_would_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = GOOD + f"\nname: !!python/object/apply:os.system ['touch {mark}']\n"
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(write(tmp_path, text))
    assert not mark.exists()


def test_no_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="no recipe at this path"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(UnknownNameError, match="did you mean 'quickstart'"):
        load_recipe("quickstrt")


def test_settings() -> None:
    recipe = load_recipe(
        None,
        settings=["seed=7", "protocol.pairs=9", "variants.int8.0.calibration=percentile"],
    )
    assert recipe.seed == 7
    assert recipe.protocol.pairs == 9
    assert recipe.protocol.processes == 6
    assert recipe.variants["int8"][0].options["calibration"] == "percentile"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("sed=3", "did you mean 'seed'?"),
        ("seed.x=3", "single value"),
        ("gates.9.max=3", "not a place in a list"),
        ("gates.x.max=3", "not a place in a list"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_settings_that_make_no_sense(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, settings=[setting])
    assert said in caught.value.line()


def test_policies(tmp_path: Path) -> None:
    both = ["gates: [{metric: accuracy, min: 0.9}]", "[{metric: accuracy, min: 0.9}]"]
    for text in both:
        assert read_policy(Path(write(tmp_path, text))) == [Gate(metric="accuracy", min=0.9)]
    with pytest.raises(RecipeError, match="no list of gates"):
        read_policy(Path(write(tmp_path, "{}")))


@pytest.mark.parametrize("name", sorted(target_files()))
def test_shipped_targets(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description


def test_targets_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'jetson'"):
        load_target("jetsn")
    with pytest.raises(UsageError, match="did you mean 'transport'"):
        load_target("cpu", settings=["transprt=ssh"])
    with pytest.raises(UsageError, match="not over ssh"):
        load_target("cpu", host="me@there")
    monkeypatch.chdir(tmp_path)
    Path("targets").mkdir()
    Path("targets/mine.yaml").write_text("transport: ssh\nhost: me@there\n")
    assert load_target("mine").host == "me@there"
    monkeypatch.setenv("EDGEBENCH_MINE_HOST", "me@elsewhere")
    assert load_target("mine").host == "me@elsewhere"
    assert load_target("mine", host="you@x").host == "you@x"
