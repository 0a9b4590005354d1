"""Torch's .pt2 archives of exported programs, read without trusting them.

torch.export.load unpickles what such a file asks it to, evaluates its shape expressions as Python,
writes its names into source code and looks its operators up among all of torch: a file can run
anything. So the archive is taken apart here, each part is held against what a plain network needs,
and a new archive is made of what passed. The old one never reaches torch, nor does anything that
another zip reader would see in it.

Layout: torch/export/pt2_archive/constants.py, and torch/_export/serde/schema.py for the JSON.
"""

from __future__ import annotations

import io
import json
import keyword
import re
import zipfile
from typing import TYPE_CHECKING, Any, Dict, List

from ..errors import ModelFailedError, one_line

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
EXAMPLES = "data/sample_inputs/model.pt"
_MARKS = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    ".data/version": b"6\n",
    "byteorder": b"little",
}
_VERSION = "archive_version"

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|quantized_decomposed)\.\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(int|float|max|min|not|sum|ite)"
)
# Of aten, those that open a file.
_FILES = re.compile(r"\.(\w*(file|save|load|pickle)\w*)\.")
# What operators take as text: how to round, to approximate, to pad, to resize.
_TEXTS = {"", "none", "tanh", "floor", "trunc", "constant", "reflect", "replicate", "circular"}
_TEXTS |= {"mean", "sum", "nearest", "bilinear", "bicubic", "cpu"}
_DOTTED = re.compile(r"\w*(\.\w+)*")
_WORDS = re.compile(r"[A-Za-z_]\w*")
# The words of a shape expression in sympy's own notation.
_SHAPE_WORDS = {
    *("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs"),
    *("FloorDiv", "CleanDiv", "CeilDiv", "CeilToInt", "FloorToInt", "PythonMod", "Where"),
    *("Eq", "Ne", "Equality", "Unequality", "LessThan", "GreaterThan", "StrictLessThan"),
    *("StrictGreaterThan", "Not", "And", "Or", "true", "false", "True", "False"),
    *("positive", "nonnegative", "integer", "real"),
}
_SHAPE_NAME = re.compile(r"'[a-z]+\d*'")
_SHAPE_REST = re.compile(r"[\s\d(),=-]*")
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_TREE_CONTEXT = re.compile(r"null|\[[\w., \"]*\]")
# Stack traces and checks as source code: nothing that is needed to compute.
_DROPPED: Dict[str, Any] = {"metadata": {}, "guards_code": []}


def clean_archive(path: Path) -> bytes:
    """The archive at `path`, made anew of the parts that can execute nothing.

    Stack traces, the checks of inputs and the examples it was traced with are left out. Raises
    ModelFailedError.
    """
    parts = read_parts(path)
    if parts.get(_VERSION, b"").strip() != _MARKS[_VERSION]:
        raise ModelFailedError(
            "it is no program of torch.export.save that edgebench knows: make it with torch 2.9 "
            "or newer"
        )
    kept = dict(_MARKS)
    kept[EXAMPLES] = b""
    kept[PROGRAM] = json.dumps(_clean_program(_parsed(parts, PROGRAM))).encode()
    for config, folder, pattern in (
        (WEIGHTS, "data/weights", r"weight_\d+"),
        (CONSTANTS, "data/constants", r"tensor_\d+"),
    ):
        cleaned = _clean(_parsed(parts, config), config)
        kept[config] = json.dumps(cleaned).encode()
        for entry in _payloads(cleaned, config):
            name = str(entry.get("path_name"))
            if entry.get("use_pickle") is not False or not re.fullmatch(pattern, name):
                raise _refused(f"{folder}/{name} is pickled")
            if f"{folder}/{name}" not in parts:
                raise ModelFailedError(f"its archive has no {folder}/{name}: is it complete?")
            kept[f"{folder}/{name}"] = parts[f"{folder}/{name}"]
    return _zipped(kept)


def read_parts(path: Path) -> Dict[str, bytes]:
    """The files in an archive without their common folder; raises ModelFailedError."""
    try:
        with zipfile.ZipFile(str(path)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            total = sum(info.file_size for info in entries.values())
            if total > max(path.stat().st_size, 1 << 20):
                # Torch stores without compression; what unpacks to more is no such archive.
                raise _refused("its archive is compressed")
            return {name.partition("/")[2]: archive.read(info) for name, info in entries.items()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ModelFailedError(
            f"PyTorch cannot load the model: {one_line(str(error), 200)}"
        ) from error


def operators_of(archive: bytes) -> Dict[str, int]:
    """How often a cleaned archive calls each operator, by names such as `aten.conv2d`."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        name = next(n for n in opened.namelist() if n.endswith(PROGRAM))
        program = json.loads(opened.read(name))
    counts: Dict[str, int] = {}
    for node in program["graph_module"]["graph"]["nodes"]:
        library, operator = str(node["target"]).replace("torch.ops.", "").split(".")[:2]
        counts[f"{library}.{operator}"] = counts.get(f"{library}.{operator}", 0) + 1
    return counts


def _parsed(parts: Dict[str, bytes], name: str) -> Any:
    if name not in parts:
        raise ModelFailedError(f"its archive has no {name}: is it a program of torch.export.save?")
    try:
        return json.loads(parts[name])
    except (ValueError, RecursionError) as error:
        raise ModelFailedError(f"{name} in its archive is no JSON") from error


def _payloads(config: Any, where: str) -> List[Dict[str, Any]]:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ModelFailedError(f"{where} in its archive lists no weights")
    return list(entries.values())


def _clean_program(program: Any) -> Any:
    try:
        # Only what the whole program is called with counts; the parts' own calls may be left out.
        module = program["graph_module"]
        calls = [c for c in module["module_call_graph"] if c["fqn"] == ""]
        version = str(program["torch_version"]).partition("+")[0]
        found = {
            **program,
            "graph_module": {**module, "module_call_graph": calls},
            "torch_version": version,
        }
        for node in module["graph"]["nodes"]:
            _check_operator(str(node["target"]))
        return _clean(found, PROGRAM)
    except (KeyError, TypeError, RecursionError) as error:
        raise ModelFailedError("the program in its archive is incomplete") from error


def _check_operator(target: str) -> None:
    if not _OPERATOR.fullmatch(target) or _FILES.search(target):
        raise _refused(f"it calls {one_line(target, 80)}, which is no operator of a network")


def _clean(value: Any, where: str, key: str = "") -> Any:
    """A copy without what is dropped; raises where a text could be read as code."""
    if key in _DROPPED:
        return _DROPPED[key]
    if isinstance(value, dict):
        for name in value:
            _check_name(name, where)
        return {name: _clean(inner, where, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner, where, key) for inner in value]
    if isinstance(value, str):
        _check_text(value, where, key)
    return value


def _check_text(text: str, where: str, key: str) -> None:
    if key == "target" and "." in text:
        if not _OPERATOR.fullmatch(text):
            _check_name(text, where)
    elif key == "expr_str":
        rest = _SHAPE_NAME.sub("", text)
        words = set(_WORDS.findall(rest))
        if words - _SHAPE_WORDS or not _SHAPE_REST.fullmatch(_WORDS.sub("", rest)):
            raise _refused(f"a shape in it is {one_line(text, 80)}")
    elif key in {"in_spec", "out_spec"}:
        _check_tree(json.loads(text) if text else None)
    elif key in {"as_string", "as_strings"}:
        if text not in _TEXTS:
            raise _refused(f"an operator in it is given the text {one_line(text, 80)}")
    else:
        _check_name(text, where)


def _check_tree(tree: Any) -> None:
    if isinstance(tree, list):
        for inner in tree:
            _check_tree(inner)
    elif isinstance(tree, dict):
        context = tree.get("context")
        if tree.get("type") not in _TREE_TYPES or not _TREE_CONTEXT.fullmatch(str(context or "[]")):
            raise _refused(f"its inputs are a {one_line(str(tree.get('type')), 80)}")
        _check_tree(tree.get("children_spec"))


def _check_name(text: str, where: str) -> None:
    """Names end up in the source code that torch makes of a program."""
    if not _DOTTED.fullmatch(text) or keyword.iskeyword(text) or "__" in text:
        raise _refused(f"a name in {where} is {one_line(text, 80)!r}")


def _refused(why: str) -> ModelFailedError:
    return ModelFailedError(f"the file could execute code and is refused: {why}")


def _zipped(parts: Dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            # A fixed date: the same program gives the same bytes.
            archive.writestr(zipfile.ZipInfo(f"model/{name}", (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()
