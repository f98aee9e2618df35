"""What is hooked of vLLM is compared with its sources, and what differs is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stet.core.errors import LoadError
from stet_vllm.hooks import (
    SHARED,
    V1,
    V2,
    Hook,
    check_signatures,
    check_version,
    signatures,
)

HOOKS = (*SHARED, *V1, *V2)


def write_sources(root: Path, hooks: tuple[Hook, ...]) -> None:
    """A vLLM that has the hooked functions and nothing else."""
    files: dict[str, dict[str, list[str]]] = {}
    for hook in hooks:
        owner, _, name = hook.name.rpartition(".")
        line = f"def {name}({', '.join(hook.parameters)}): ..."
        files.setdefault(hook.file, {}).setdefault(owner, []).append(line)
    for file, owners in files.items():
        text = ""
        for owner, lines in owners.items():
            indent = "    " if owner else ""
            text += f"class {owner}:\n" if owner else ""
            text += "".join(f"{indent}{line}\n" for line in lines)
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_vllm_as_it_is_known_is_accepted(tmp_path):
    write_sources(tmp_path, HOOKS)
    check_signatures(tmp_path, HOOKS)


@pytest.mark.parametrize("place", range(len(HOOKS)), ids=lambda i: HOOKS[i].name)
def test_each_other_signature_is_refused(tmp_path, place):
    hook = HOOKS[place]
    changed = Hook(hook.file, hook.name, (*hook.parameters, "one_more"))
    write_sources(tmp_path, (*HOOKS[:place], changed, *HOOKS[place + 1 :]))
    with pytest.raises(LoadError, match=f"{hook.name} in .* takes .*one_more"):
        check_signatures(tmp_path, HOOKS)


def test_a_function_that_is_gone_is_refused(tmp_path):
    write_sources(tmp_path, HOOKS[1:])
    with pytest.raises(LoadError, match="is not there"):
        check_signatures(tmp_path, HOOKS)


def test_signatures_are_read_without_running_anything():
    source = """
raise SystemExit
class A:
    @staticmethod
    def f(a, /, b, *, c=1): ...
    async def g(self): ...
def h(x: int = 3, *rest, **more): ...
"""
    assert signatures(source) == {"A.f": ("a", "b", "c"), "A.g": ("self",), "h": ("x",)}


@pytest.mark.parametrize("version", ["0.32.0", "0.33.0", "0.33.1rc2"])
def test_known_releases(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.0.0", "dev"])
def test_other_releases_are_refused(version):
    with pytest.raises(LoadError, match=r"0\.32 to 0\.33, and .* is installed"):
        check_version(version)
