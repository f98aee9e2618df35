"""`make test-oldest` runs with the lower bounds that pyproject.toml states, and nothing newer."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> list[Requirement]:
    """What the package and its extras require of others."""
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    parsed = [Requirement(text) for text in texts]
    return [r for r in parsed if r.name != PROJECT["name"]]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


RUNNING = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]


@pytest.mark.parametrize("requirement", requirements(*RUNNING), ids=str)
def test_the_oldest_set_is_the_lower_bounds(requirement: Requirement) -> None:
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    assert pins("constraints-oldest.txt")[canonicalize_name(requirement.name)] == Version(
        bound.version
    )


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_both_sets_are_allowed(name: str) -> None:
    pinned = pins(name)
    for requirement in requirements(*RUNNING, "dev"):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_same_tools_test_both_sets() -> None:
    """Else a difference may be the tool's."""
    new, old = pins("constraints.txt"), pins("constraints-oldest.txt")
    for requirement in requirements("dev"):
        name = canonicalize_name(requirement.name)
        if name not in {canonicalize_name(r.name) for r in requirements(*RUNNING)}:
            assert old[name] == new[name]
