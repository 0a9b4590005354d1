"""Which source files stand behind a factory."""

from __future__ import annotations

from pathlib import Path

from edgebench.models.imports import local_sources


def tree(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, file: str, module: str) -> set[str]:
    found = local_sources(root / file, module)
    return {p.relative_to(root.resolve()).as_posix() for p in found}


def test_imports_are_followed_in_turn_also_inside_functions(tmp_path: Path) -> None:
    tree(
        tmp_path,
        net="import torch\nfrom blocks import Block\n",
        blocks="def make():\n    import layers.conv\n",
        layers__conv="import net\n",
        layers__other="",
        unrelated="",
    )
    assert names(tmp_path, "net.py", "net") == {"net.py", "blocks.py", "layers/conv.py"}


def test_packages_and_relative_imports(tmp_path: Path) -> None:
    root = tmp_path
    tree(root, nets__vision__model="from . import parts\nfrom ..common import act\n")
    tree(root, nets__vision__parts="from ..common.norms import batch\n")
    tree(root, nets__common__act="", nets__common__norms="", nets__common__unused="")
    for folder in ("nets", "nets/vision", "nets/common"):
        (root / folder / "__init__.py").write_text("")
    found = names(root, "nets/vision/model.py", "nets.vision.model")
    # Importing a module runs the packages it lies in.
    assert found == {
        "nets/vision/__init__.py",
        "nets/vision/model.py",
        "nets/vision/parts.py",
        "nets/common/__init__.py",
        "nets/common/act.py",
        "nets/common/norms.py",
        "nets/__init__.py",
    }


def test_a_package_as_the_module(tmp_path: Path) -> None:
    tree(tmp_path, nets__model="")
    (tmp_path / "nets" / "__init__.py").write_text("from nets.model import f\n")
    assert names(tmp_path, "nets/__init__.py", "nets") == {"nets/__init__.py", "nets/model.py"}


def test_of_an_installed_package_nothing_else_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "site-packages"
    tree(root, nets__model="import heavy\nimport nets.parts\n", nets__parts="", heavy="")
    assert names(root, "nets/model.py", "nets.model") == {"nets/model.py", "nets/parts.py"}


def test_a_file_python_cannot_read_has_no_imports(tmp_path: Path) -> None:
    tree(tmp_path, net="import bad\n", bad="def (:\nimport net2\n", net2="")
    assert names(tmp_path, "net.py", "net") == {"net.py", "bad.py"}
