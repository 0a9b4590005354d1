"""Read YAML as people write it: safe, with duplicate keys refused and errors located."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgebench.errors import EdgebenchError


def read_yaml(path: Path, error: type[EdgebenchError], noun: str) -> Any:
    """The content of one YAML file; raises `error` in one line, with the line number."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"there is no {noun} at this path", where=str(path)) from None
    except UnicodeDecodeError:
        raise error(
            f"the {noun} is not UTF-8 text", where=str(path), hint="is it the right file?"
        ) from None
    except OSError as problem:
        raise error(f"the {noun} cannot be read: {problem.strerror}", where=str(path)) from problem
    return parse_yaml(text, error, where=str(path), noun=noun)


def parse_yaml(text: str, error: type[EdgebenchError], *, where: str, noun: str) -> Any:
    """The value of a YAML text; raises `error` in one line, with the line number."""
    import yaml

    class UniqueKeyLoader(yaml.SafeLoader):
        """YAML forbids a key twice, PyYAML silently keeps the last: half a recipe would vanish."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, (str, int, float, bool)) and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key}' stands here twice", key_node.start_mark
                    )
                if isinstance(key, (str, int, float, bool)):
                    seen.add(key)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as problem:
        line = f":{problem.problem_mark.line + 1}" if problem.problem_mark else ""
        raise error(
            f"the {noun} is not valid YAML: {problem.problem}", where=f"{where}{line}"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise error(f"the {noun} is not valid YAML: {problem}", where=where) from None
