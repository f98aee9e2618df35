"""What holds for every test: quiet threads, the default marker, and skips that say why."""

import importlib.util
import os
import shutil
import tempfile

# Before torch is imported: idle OpenMP threads sleep, so tests that share a machine stay fast.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What a test measures of this machine is not kept, and nothing that was kept changes a test.
os.environ["STET_CACHE"] = tempfile.mkdtemp(prefix="stet-test-")

import pytest

KINDS = {"unit", "slow", "gpu", "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not KINDS & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.unit)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("browser"):
        missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
        if importlib.util.find_spec("selenium") is None:
            missing.append("selenium")
        if missing:
            pytest.skip(f"needs {' and '.join(missing)}; `make test-browser` installs them")
