"""The house: which file may know which, read from the imports of the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import stet

ROOT = Path(stet.__file__).parent
FRONT_DOOR = "stet"
"""The package itself, which offers names of all folders and is imported by none."""


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["stet", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Modules of the package that a file names, also inside functions and for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stet":
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "stet"}
    return found


GRAPH = {name: imports(path) - {name} for name, path in MODULES.items()}


def folder(name: str) -> str:
    parts = name.split(".")
    is_package = MODULES[name].name == "__init__.py"
    return parts[1] if len(parts) > 2 or (is_package and len(parts) == 2) else FRONT_DOOR


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Nodes that reach each other: what is left when those without arrows are taken away."""
    left = {name: set(targets) & set(graph) for name, targets in graph.items()}
    while True:
        targeted = set().union(*left.values()) if left else set()
        ends = {n for n, targets in left.items() if not targets or n not in targeted}
        if not ends:
            break
        left = {n: targets - ends for n, targets in left.items() if n not in ends}
    return [sorted(left)] if left else []


def test_there_are_no_circles_between_files():
    assert circles({n: t for n, t in GRAPH.items() if n != FRONT_DOOR}) == []


def test_streets_between_folders_go_one_way():
    streets: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, targets in GRAPH.items():
        if name == FRONT_DOOR:
            continue
        for target in targets:
            start, end = folder(name), folder(target)
            if start != end:
                streets[start, end].append(f"{name} -> {target}")
    both = {k: v for k, v in streets.items() if (k[1], k[0]) in streets}
    assert both == {}
    graph: dict[str, set[str]] = defaultdict(set)
    for start, end in streets:
        graph[start].add(end)
        graph[end] |= set()
    assert circles(dict(graph)) == []


def test_the_core_knows_nothing_above_it():
    above = {t for n, ts in GRAPH.items() if folder(n) == "core" for t in ts}
    assert {folder(t) for t in above} <= {"core", "bundled"}


def test_policies_are_rules_and_know_no_engine_or_model():
    known = {folder(t) for n, ts in GRAPH.items() if folder(n) == "policies" for t in ts}
    assert known <= {"policies", "core", "signals", "arbiter", "rewards", "bundled"}


def test_the_front_door_is_small():
    assert sorted(p.name for p in ROOT.glob("*.py")) == ["__init__.py", "load.py", "pair.py"]


def test_the_circles_that_are_looked_for_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []
