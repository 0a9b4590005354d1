from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.pt2_archive import EXAMPLES, PROGRAM, WEIGHTS, clean_archive

pytest.importorskip("torch", reason="PyTorch is not installed")

TORCH = RUNTIMES["torch"]
Change = Callable[[dict[str, bytes]], None]


class _Hostile:
    """Unpickled, it makes a file: the proof that something was executed."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._proof,))


def _changed(source: Path, place: Path, change: Change) -> Path:
    """A copy of a .pt2 file after `change` had its way with the archive's files."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        parts = {i.partition("/")[2]: archive.read(i) for i in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"{root}/{name}", content)
    return place


def _edit(parts: dict[str, bytes], name: str, edit: Callable[[Any], None]) -> None:
    value = json.loads(parts[name])
    edit(value)
    parts[name] = json.dumps(value).encode()


def _nodes(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"]


def _pickled_weight(proof: Path) -> Change:
    def change(parts: dict[str, bytes]) -> None:
        parts["data/weights/weight_0"] = pickle.dumps(_Hostile(proof))
        _edit(
            parts,
            WEIGHTS,
            lambda c: next(e for e in c["config"].values() if e["path_name"] == "weight_0").update(
                use_pickle=True
            ),
        )

    return change


def _opaque_constant(proof: Path) -> Change:
    def change(parts: dict[str, bytes]) -> None:
        parts["data/constants/opaque_obj_0"] = pickle.dumps(_Hostile(proof))
        parts["data/constants/model_constants_config.json"] = json.dumps(
            {
                "config": {
                    "thing": {
                        "path_name": "opaque_obj_0",
                        "is_param": False,
                        "use_pickle": False,
                        "tensor_meta": None,
                    }
                }
            }
        ).encode()

    return change


def _shape_expression(proof: Path) -> Change:
    def edit(program: Any) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        code = f"open({str(proof)!r}, 'w').close()"
        for value in values.values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    return lambda parts: _edit(parts, PROGRAM, edit)


def _operator(target: str) -> Change:
    return lambda parts: _edit(parts, PROGRAM, lambda p: _nodes(p)[0].update(target=target))


def _text_argument(text: str) -> Change:
    def edit(program: Any) -> None:
        _nodes(program)[0]["inputs"].append({"name": "f", "arg": {"as_string": text}, "kind": 1})

    return lambda parts: _edit(parts, PROGRAM, edit)


def _name(name: str) -> Change:
    return lambda parts: _edit(parts, PROGRAM, lambda p: _nodes(p)[0].update(name=name))


def _tree(kind: str) -> Change:
    def edit(program: Any) -> None:
        call = program["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = json.dumps([1, {"type": kind, "context": "null", "children_spec": []}])

    return lambda parts: _edit(parts, PROGRAM, edit)


def test_hostile_files_are_refused_and_execute_nothing(networks: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    changes: dict[str, tuple[Change, str]] = {
        "pickle": (_pickled_weight(proof), "is pickled"),
        "opaque": (_opaque_constant(proof), "is pickled"),
        "shape": (_shape_expression(proof), "a shape in it is open("),
        "hub": (_operator("torch.hub.load"), "it calls torch.hub.load"),
        "file": (_operator("torch.ops.aten.from_file.default"), "aten.from_file"),
        "method": (_operator("_operator.methodcaller"), "_operator.methodcaller"),
        "other": (_operator("os.system"), "os.system"),
        "text": (_text_argument("/etc/passwd"), "is given the text /etc/passwd"),
        "name": (_name("x):\n import os\n#"), "a name in"),
        "dunder": (_name("__import__"), "a name in"),
        "tree": (_tree("collections.defaultdict"), "its inputs are a collections.defaultdict"),
    }
    for label, (change, says) in changes.items():
        path = _changed(networks / "network.pt2", tmp_path / f"{label}.pt2", change)
        with pytest.raises(ModelFailedError) as caught:
            TORCH.load(path, ["cpu"], 1, {})
        assert says in str(caught.value), label
        assert "could execute code and is refused" in str(caught.value), label
        assert "\n" not in str(caught.value), label
    assert not proof.exists()


def test_torch_itself_would_execute_them(networks: Path, tmp_path: Path) -> None:
    """Two files of the test before are hostile indeed; in a process of its own."""
    proofs, lines = [], ["import torch"]
    for hostile in (_pickled_weight, _shape_expression):
        proofs.append(tmp_path / f"executed{hostile.__name__}")
        place = tmp_path / f"hostile{hostile.__name__}.pt2"
        path = _changed(networks / "network.pt2", place, hostile(proofs[-1]))
        lines += ["try:", f"    torch.export.load({str(path)!r})", "except Exception: pass"]
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, check=True, timeout=120
    )
    assert [proof.exists() for proof in proofs] == [True, True]


def test_what_is_left_out_is_never_executed(networks: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    def change(parts: dict[str, bytes]) -> None:
        parts[EXAMPLES] = pickle.dumps(_Hostile(proof))
        parts["data/aotinductor/model/model.so"] = b"no library"
        _edit(parts, PROGRAM, lambda p: p.update(guards_code=[f"open({str(proof)!r}, 'w')"]))

    path = _changed(networks / "network.pt2", tmp_path / "extra.pt2", change)
    feed = (np.ones((1, 3, 8, 8), np.float32),)
    answer = TORCH.load(path, ["cpu"], 1, {}).infer(feed)
    wanted = TORCH.load(networks / "network.pt2", ["cpu"], 1, {}).infer(feed)
    assert (answer[0] == wanted[0]).all()
    assert not proof.exists()


def test_a_second_file_of_one_name_is_not_seen(networks: Path, tmp_path: Path) -> None:
    """Two zip readers may take another of the two: torch gets what was checked."""
    path = tmp_path / "twice.pt2"
    path.write_bytes((networks / "network.pt2").read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(PROGRAM))
        program = archive.read(name)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, program)
    with zipfile.ZipFile(io.BytesIO(clean_archive(path))) as cleaned:
        assert len(cleaned.namelist()) == len(set(cleaned.namelist()))


def test_a_cleaned_archive_is_clean_already(networks: Path, tmp_path: Path) -> None:
    once = clean_archive(networks / "network.pt2")
    (tmp_path / "clean.pt2").write_bytes(once)
    assert clean_archive(tmp_path / "clean.pt2") == once
    assert b"stack_trace" not in once


@pytest.mark.parametrize("missing", [PROGRAM, WEIGHTS, "data/weights/weight_0"])
def test_a_file_with_a_part_missing_is_one_line(
    networks: Path, tmp_path: Path, missing: str
) -> None:
    path = _changed(
        networks / "network.pt2", tmp_path / "part.pt2", lambda parts: parts.pop(missing) and None
    )
    with pytest.raises(ModelFailedError, match="its archive has no"):
        TORCH.load(path, ["cpu"], 1, {})


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_asked_for(networks: Path, threads: int) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        TORCH.load(networks / "network.pt2", ["cpu"], threads, {})
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_what_a_compiled_model_ran_cannot_be_told(networks: Path) -> None:
    feed = (np.zeros((1, 3, 8, 8), np.float32),)
    path = networks / "network.pt2"
    assert TORCH.inspect(path, ["cpu"], 1, {"mode": "compile"}, feed) is None
    found = TORCH.inspect(path, ["cpu"], 1, {}, feed)
    assert found is not None
    assert found.nodes == {
        "cpu": {"aten.conv2d": 1, "aten.relu": 1, "aten.flatten": 1, "aten.linear": 1}
    }


@pytest.mark.parametrize("config", [{"mode": "fast"}, {"speed": "most"}])
def test_unknown_configuration_is_one_line(networks: Path, config: dict[str, str]) -> None:
    with pytest.raises(ModelFailedError, match="it takes mode: eager or compile"):
        TORCH.load(networks / "network.pt2", ["cpu"], 1, config)


@pytest.mark.slow
def test_compiling_without_a_compiler_says_so(networks: Path, tmp_path: Path) -> None:
    """In a process of its own: torch remembers the compiler it found."""
    code = f"""
import numpy as np
from pathlib import Path
from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes import RUNTIMES
path = Path({str(networks / "network.pt2")!r})
model = RUNTIMES["torch"].load(path, ["cpu"], 1, {{"mode": "compile"}})
try:
    model.infer((np.zeros((2, 3, 8, 8), np.float32),))
except ModelFailedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={
            "PATH": str(tmp_path),
            "CXX": str(tmp_path / "no-compiler"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
            "HOME": str(tmp_path),
        },
    )
    assert done.stdout.startswith("torch.compile needs a C++ compiler"), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_a_compiled_model_answers_as_the_eager_one(networks: Path, tmp_path: Path) -> None:
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler")
    eager = TORCH.load(networks / "network.pt2", ["cpu"], 1, {})
    compiled = TORCH.load(networks / "network.pt2", ["cpu"], 1, {"mode": "compile"})
    for count in (1, 3):
        feed = (np.random.default_rng(count).normal(size=(count, 3, 8, 8)).astype(np.float32),)
        wanted = eager.infer(feed)
        assert np.allclose(compiled.infer(feed)[0], wanted[0], atol=1e-5)
        query = compiled.bind(feed, wanted)
        query.run()
        assert np.allclose(query.read()[0], wanted[0], atol=1e-5)
