"""C source that ships with the package, compiled on the machine that runs it.

A compiler that is told to build for this processor may use all of its instructions, which no
binary in a package could. It takes a second or two, once: libraries are kept in the user's cache,
under a name that holds a checksum of the source, the flags, and what the compiler says about itself
and the processor. So another compiler, or the same home on another machine, gets its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stet.core.cache import cache_folder, is_own
from stet.core.errors import StetError

FLAGS = (
    "-O3",
    "-march=native",
    "-std=gnu11",
    # Results are the same bits on every path: only what is written as a fused operation is one.
    "-ffp-contract=off",
    # Neither changes a result; rounding and comparing can then be done for many values at once.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)
FUSED_FLAGS = tuple(flag for flag in FLAGS if not flag.startswith("-ffp-contract"))
"""For kernels with one path: products are summed with one rounding, the same one everywhere."""

COMPILERS = ("cc", "gcc", "clang")
TIMEOUT = 120.0
"""The longest that a compiler may take, in seconds."""


class KernelError(StetError):
    """A kernel cannot be compiled or loaded here."""


def load_library(source: Path, flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """Load the library of a C file, compiled where the user's cache does not hold it.

    Args:
        source: the C file.
        flags: what the compiler is told besides.

    Raises:
        KernelError: there is no compiler, or it fails.
    """
    if os.name != "posix":
        raise KernelError("kernels are compiled on Linux and macOS only")
    compiler = find_compiler()
    name = f"{source.stem}-{_checksum(compiler, source, flags)}.so"
    folder = cache_folder("kernels")
    if folder is not None:
        with suppress(OSError):  # a full disk, say
            return _load(folder / name) or _load_new(compiler, source, flags, folder / name)
    # Compiled for this process alone: a library that is loaded needs no file any more.
    with tempfile.TemporaryDirectory(prefix="stet-") as own:
        return _load_new(compiler, source, flags, Path(own) / name)


def find_compiler() -> list[str]:
    """Find a C compiler: `$CC`, or cc, gcc or clang on the path, with the arguments `$CC` has.

    Raises:
        KernelError: there is none.
    """
    own = shlex.split(os.environ.get("CC", ""))
    for command in ([own] if own else []) + [[name] for name in COMPILERS]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    raise KernelError(
        "no C compiler was found: install gcc or clang, or name one in the environment variable CC"
    )


def _checksum(compiler: list[str], source: Path, flags: Sequence[str]) -> str:
    # What it predefines names its version and every instruction set that the flags allow.
    about = _run([*compiler, *flags, "-dM", "-E", "-x", "c", os.devnull])
    headers = [path.read_bytes() for path in sorted(source.parent.glob("*.h"))]
    parts = (about, " ".join([*compiler, *flags]).encode(), source.read_bytes(), *headers)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:24]


def _load(library: Path) -> ctypes.CDLL | None:
    """Load a library; None where there is none, one that is damaged, or not surely the user's."""
    try:
        return ctypes.CDLL(str(library)) if is_own(library) else None
    except OSError:
        return None


def _load_new(
    compiler: list[str], source: Path, flags: Sequence[str], library: Path
) -> ctypes.CDLL:
    """Compile beside the library and move it there whole: others may load it at any time."""
    handle, name = tempfile.mkstemp(prefix=library.stem, suffix=".tmp", dir=library.parent)
    os.close(handle)
    try:
        _run([*compiler, *flags, str(source), "-o", name, "-lm"])
        Path(name).chmod(0o700)  # whatever the user's own default is
        Path(name).replace(library)
    finally:
        Path(name).unlink(missing_ok=True)
    loaded = _load(library)
    if loaded is None:
        raise KernelError(f"what the C compiler {compiler[0]} made could not be loaded")
    return loaded


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"the C compiler {command[0]} could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        first = next((line for line in said if "error" in line), said[0] if said else "no message")
        raise KernelError(f"the C compiler {command[0]} failed: {first}")
    return done.stdout
