"""What the documents say is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgebench.__main__ import run
from edgebench.metrics.base import METRICS
from edgebench.pipeline.plan import check_gates, plan_variants
from edgebench.protocol import PROFILES
from edgebench.recipe import load_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

# What the snippets of CONTRIBUTING.md leave out.
PREAMBLE = """
from typing import ClassVar
import numpy as np
from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate
from edgebench.techniques.base import (
    TECHNIQUES, NoOptions, Options, Outcome, TorchTechnique, weight_layers)
"""
CHECK = """
from edgebench.metrics.base import METRICS
from edgebench.models.base import MODELS
module = MODELS.get("lenet")((1, 8, 8), 10)
changed, outcome = TECHNIQUES.get("zero-bias")().apply(module, NoOptions(), None)
assert outcome.notes and not any(layer.bias.any() for _, layer in weight_layers(changed))
answers = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
base = Outputs(answers, np.zeros(4, int))
found = METRICS.get("max_change").on_pair(base, Context(base, (), np.ones((2, 4), np.float32)))
assert found.point == 0
"""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not link.startswith(("http://", "https://")):
            assert (path.parent / link).exists(), link


def test_the_readmes_recipe_is_a_recipe(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    assert [v.name for v in plan_variants(recipe)] == ["int8", "small-int8"]
    check_gates(recipe.gates)


def test_the_profiles_are_those_of_the_table() -> None:
    text = (ROOT / "docs/measurement.md").read_text()
    for name, protocol in PROFILES.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", text, flags=re.MULTILINE)
        _, _, processes, blocks_of, stops = (cell.strip() for cell in row.split("|"))
        few, many = protocol.processes, protocol.max_processes
        assert processes == (str(few) if few == many else f"{few} to {many}")
        assert blocks_of == f"{protocol.pairs} × {protocol.block_s:g} s"
        if protocol.half_width is None:
            assert stops == f"after {few} processes"
        else:
            cap = protocol.time_cap_s or 0
            told = f"{cap:g} s" if cap < 60 else f"{cap / 60:g} minutes"
            assert stops == f"at ± {100 * protocol.half_width:g} %, or {told}"
    least = [str(protocol.least_pairs) for protocol in PROFILES.values()]
    assert f"`least_pairs` ({', '.join(least[:-1])} and {least[-1]}) at least" in text


def test_the_example_manifest_is_quick() -> None:
    example = next(b for b in blocks(ROOT / "docs/bundle.md", "json") if '"protocol"' in b)
    written = json.loads(example)["protocol"]
    assert written == PROFILES["quick"].model_dump(mode="json")


def test_the_readmes_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"edgebench ((?:history|targets|list) [a-z]+|[a-z]+)", text))
    assert {"run", "gate", "bundle", "ingest", "history list"} <= commands
    for command in commands:
        words = command.split()
        if words[0] in {
            *("run", "gate", "bundle", "ingest", "list", "history", "targets", "report", "compare")
        }:
            words = words[:1] if words[0] == "list" else words
            assert run([*words, "--help"]) == 0, command
    helps = ""
    for command in ("run", "gate", "bundle", "ingest", "compare"):
        capsys.readouterr()
        run([command, "--help"])
        helps += capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z]+", text)) - {"--help"}:
        assert option in helps, option


def test_contributings_snippets_work() -> None:
    path = ROOT / "CONTRIBUTING.md"
    code = PREAMBLE + "\n".join(blocks(path, "python")) + CHECK
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (target,) = blocks(path, "yaml")
    assert yaml.safe_load(target)["transport"] == "ssh"


def test_every_metric_name_in_the_readme_is_one() -> None:
    recipe = blocks(ROOT / "README.md", "yaml")[0]
    for name in re.findall(r"metric: (\w+)", recipe):
        assert METRICS.get(name)


def test_no_placeholder_is_left() -> None:
    for path in DOCUMENTS:
        assert not re.search(r"@[A-Z]+@|TODO|FIXME", path.read_text()), path
