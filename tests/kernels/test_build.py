"""Compiling at first use: the cache, several processes at once, and machines where it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import blocks
from kernels.blocks import random_weight
from stet.core.cache import is_own
from stet.kernels import PackedLinear, build, linear, native
from stet.kernels.build import KernelError, find_compiler, load_library

SOURCE = "int answer(void) { return 42; }\n"
LOAD = """
import sys
from pathlib import Path
from stet.kernels.build import load_library
print(load_library(Path(sys.argv[1]), ("-shared", "-fPIC", "-O1")).answer())
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small source; the cache is empty."""
    try:
        find_compiler()
    except KernelError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("STET_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


def cached(tmp_path):
    return list((tmp_path / "cache" / "kernels").iterdir())


def test_a_library_is_compiled_once(source, tmp_path, monkeypatch):
    assert load_library(source).answer() == 42
    (library,) = cached(tmp_path)
    assert library.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(build, "_load_new", lambda *a: pytest.fail("compiled again"))
    assert load_library(source).answer() == 42


def test_a_changed_source_or_flag_is_another_library(source, tmp_path):
    load_library(source)
    load_library(source, (*build.FLAGS, "-O1"))
    source.write_text(SOURCE.replace("42", "43"))
    assert load_library(source).answer() == 43
    assert len(cached(tmp_path)) == 3
    header = source.with_name("small.h")
    header.write_text("#define ANSWER 44\n")
    source.write_text('#include "small.h"\nint answer(void) { return ANSWER; }\n')
    assert load_library(source).answer() == 44
    header.write_text("#define ANSWER 45\n")
    assert load_library(source).answer() == 45


def test_a_damaged_library_is_replaced(source, tmp_path):
    load_library(source)
    (library,) = cached(tmp_path)
    library.unlink()  # a file that is loaded must not be written to
    library.write_bytes(b"no library")
    assert load_library(source).answer() == 42


def test_several_processes_at_once(source, tmp_path):
    command = [sys.executable, "-c", LOAD, str(source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == [b"42\n"] * 3
    assert len(cached(tmp_path)) == 1


def test_a_cache_that_cannot_be_made(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STET_CACHE", str(tmp_path / "file"))
    assert load_library(source).answer() == 42


def test_a_cache_that_cannot_be_written(source, monkeypatch):
    real = build._load_new

    def full(compiler, path, flags, library):
        if "cache" in library.parts:
            raise OSError("no space left on device")
        return real(compiler, path, flags, library)

    monkeypatch.setattr(build, "_load_new", full)
    assert load_library(source).answer() == 42


def test_a_cache_that_others_can_write_is_not_used(source, tmp_path):
    load_library(source)
    (library,) = cached(tmp_path)
    library.parent.chmod(0o777)
    library.unlink()  # the file that this process has mapped stays whole
    library.write_bytes(b"somebody else's")
    assert load_library(source).answer() == 42
    assert library.read_bytes() == b"somebody else's"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_library_that_others_can_write_is_replaced(source, tmp_path, mode):
    load_library(source)
    (library,) = cached(tmp_path)
    plant(library, tmp_path)
    library.chmod(mode)
    assert load_library(source).answer() == 42
    assert library.stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_cache_is_replaced(source, tmp_path):
    load_library(source)
    (library,) = cached(tmp_path)
    plant(library, tmp_path)
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    assert load_library(source).answer() == 42
    assert not library.is_symlink()


def test_a_library_of_another_user_is_not_loaded(source, tmp_path, monkeypatch):
    load_library(source)
    (library,) = cached(tmp_path)
    plant(library, tmp_path)
    own = os.getuid()
    state = Path.lstat
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert not is_own(library)
    monkeypatch.setattr(Path, "lstat", lambda path: owned_by(own + (path != library), state(path)))
    with pytest.raises(KernelError, match="could not be loaded"):  # nor is its successor another's
        load_library(source)


def owned_by(user, state):
    return os.stat_result((*state[:4], user, *state[5:10]))


def plant(library, folder, answer="13"):
    """Put a library with another answer in the place of one."""
    (folder / "other.c").write_text(f"int answer(void) {{ return {answer}; }}\n")
    made = folder / f"other{answer}.so"
    subprocess.run(
        [*find_compiler(), "-shared", "-fPIC", folder / "other.c", "-o", made], check=True
    )
    library.unlink()
    made.rename(library)
    library.chmod(0o700)


def test_libraries_are_the_users_own_under_any_umask(source, tmp_path):
    before = os.umask(0)
    try:
        load_library(source)
    finally:
        os.umask(before)
    (library,) = cached(tmp_path)
    assert library.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler():
    with pytest.raises(KernelError, match="no C compiler was found: install gcc or clang"):
        load_library(native.SOURCE)


def test_a_compiler_that_fails(source, monkeypatch):
    source.write_text("int answer(void) { return nothing; }")
    with pytest.raises(KernelError, match="failed: .*error"):
        load_library(source)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(KernelError, match="false failed: no message"):
        load_library(source)


def test_the_compiler_of_the_environment_with_its_arguments(source, monkeypatch):
    (path,) = find_compiler()
    monkeypatch.setenv("CC", f"{path} -Danswer=other")
    assert load_library(source).other() == 42


def test_a_layer_without_the_kernel(monkeypatch):
    monkeypatch.setattr(linear, "kernel", lambda: None)
    monkeypatch.setattr(linear, "unavailable", lambda: "no C compiler was found")
    linear._warn_once.cache_clear()
    weight, bias = random_weight("Q4_0", 32, 64), torch.randn(32)
    x = torch.randn(2, 3, 64)
    with pytest.warns(UserWarning, match="are unpacked.*: no C compiler was found") as warned:
        layers = [PackedLinear(weight, bias, torch.float32) for _ in range(2)]
    assert len(warned) == 1
    for layer in layers:
        assert torch.allclose(layer(x), x @ weight.dequantise().T + bias, atol=1e-5)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert (PackedLinear(weight)(x) - x @ weight.dequantise().T).abs().max() < 0.1


def test_why_there_is_no_kernel(no_compiler):
    cached = (native.kernel, native.unavailable, native._loaded)
    for function in cached:
        function.cache_clear()
    try:
        assert native.kernel() is None
        assert native.unavailable().startswith("no C compiler was found")
    finally:
        for function in cached:
            function.cache_clear()


def test_a_processor_without_the_instructions(monkeypatch):
    kernel = blocks.compiled()
    monkeypatch.setattr(kernel, "is_fast", False)
    monkeypatch.setattr(native, "_loaded", lambda: kernel)
    reason = native.unavailable.__wrapped__()
    assert reason == "this processor has neither AVX2 nor AVX-512 instructions"


def test_the_source_ships_with_the_package():
    assert native.SOURCE.is_file()
    assert native.SOURCE.parent == Path(build.__file__).parent
    assert os.access(native.SOURCE, os.R_OK)
