"""Peers in environments of their own, made from pinned requirements, and how each is started."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _peers_workers import Spec

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "peers"


def threads(count: int) -> dict[str, str]:
    """The environment of a process that computes in so many threads, which wait as they like."""
    return {
        "OMP_NUM_THREADS": str(count),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def stet(name: str, load: Mapping[str, Any]) -> Spec:
    """Stet, in this environment."""
    command = (sys.executable, str(SCRIPTS / "stet_worker.py"))
    more = {"PYTHONPATH": str(ROOT / "src")}
    return Spec(name, command, load, ROOT, threads(load["threads"]) | more)


def transformers(name: str, load: Mapping[str, Any]) -> Spec:
    """transformers, in this environment too, so that both stand on the same torch."""
    command = (sys.executable, str(SCRIPTS / "transformers_worker.py"))
    return Spec(name, command, load, ROOT, threads(load["threads"]))


def llama(name: str, load: Mapping[str, Any], folder: Path) -> Spec:
    """llama.cpp, through node-llama-cpp."""
    command = ("node", str(SCRIPTS / "llama_worker.mjs"))
    return Spec(name, command, load, folder / "llama")


def openvino(name: str, load: Mapping[str, Any], folder: Path) -> Spec:
    """OpenVINO GenAI."""
    command = (str(folder / "openvino/bin/python"), str(SCRIPTS / "openvino_worker.py"))
    return Spec(name, command, load, ROOT)


def vllm(name: str, load: Mapping[str, Any], folder: Path) -> Spec:
    """VLLM on a CPU."""
    command = (str(folder / "vllm/bin/python"), str(SCRIPTS / "vllm_worker.py"))
    cores = "0" if load["threads"] == 1 else f"0-{load['threads'] - 1}"
    more = {
        "VLLM_CPU_OMP_THREADS_BIND": cores,  # by itself it would leave a core to its front end
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    return Spec(name, command, load, ROOT, threads(load["threads"]) | more)


def install(folder: Path) -> dict[str, str]:
    """Make the environments that are missing or of other requirements.

    Args:
        folder: of the environments.

    Returns:
        What was said of those that could not be made, by peer.
    """
    failed: dict[str, str] = {}
    for name, make in MAKERS.items():
        pinned = [path for path in sorted(SCRIPTS.iterdir()) if path.name in PINNED[name]]
        digest = hashlib.sha256(b"".join(p.read_bytes() for p in pinned)).hexdigest()[:16]
        ready = folder / f"{name}.ready"
        if ready.exists() and ready.read_text() == digest:
            continue
        print(f"installing {name} ...", file=sys.stderr, flush=True)
        try:
            make(folder / name)
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or str(error)
            failed[name] = f"{name} could not be installed: {told[-1500:]}"
        else:
            ready.write_text(digest)
    return failed


def _node(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PINNED["llama"]:
        (folder / name).write_bytes((SCRIPTS / name).read_bytes())
    # Scripts would fetch or compile other builds; the package holds one that is ready. Builds for
    # other systems are gigabytes, and `npm ci` asks that an index has them all.
    left_out = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
    _run(["npm", "install", *left_out], folder)


def _python(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], folder.parent)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
        # The list is complete, and packages in it that nothing here needs are left out.
        _run([*pip, "--quiet", "--no-deps", "-r", str(SCRIPTS / f"{name}.txt")], folder.parent)

    return make


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=1800)


PINNED = {
    "llama": ("package.json", "package-lock.json"),
    "openvino": ("openvino.txt",),
    "vllm": ("vllm.txt",),
}
"""The files that pin a peer's environment."""

MAKERS: dict[str, Callable[[Path], None]] = {
    "llama": _node,
    "openvino": _python("openvino"),
    "vllm": _python("vllm"),
}
