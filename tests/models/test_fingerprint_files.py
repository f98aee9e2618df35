"""Fingerprints of models that are not loaded equal those of loaded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stet import load_pair
from stet.bundled import DRAFT, TARGET
from stet.core.errors import LoadError
from stet.models.fingerprint import fingerprint_of_files

PAIRS = Path(__file__).parents[2] / "benchmarks" / "pairs"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_files_of_the_bundled_pair(dtype):
    with load_pair(TARGET, DRAFT, dtype=dtype) as pair:
        assert fingerprint_of_files(TARGET, DRAFT, dtype=dtype) == pair.fingerprint


def test_another_pair_is_another():
    assert fingerprint_of_files(TARGET, TARGET, dtype=torch.float32) != fingerprint_of_files(
        TARGET, DRAFT, dtype=torch.float32
    )


def test_files_without_the_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_bytes((TARGET / "config.json").read_bytes())
    with pytest.raises(LoadError, match="does not hold the weights"):
        fingerprint_of_files(tmp_path, dtype=torch.float32)
