"""How workers are laid out over machines, without any."""

import pytest

from stet.core.errors import OptionError
from stet.executors.ray import Shape, lay_out


@pytest.mark.parametrize(
    ("machines", "device", "workers", "threads", "expected"),
    [
        ([(8, 0)], "auto", None, None, Shape(1, 8, 0)),
        ([(16, 4), (16, 1)], "auto", None, None, Shape(5, 4, 1)),
        ([(32, 8), (32, 1)], "auto", None, None, Shape(9, 4, 1)),
        ([(8, 0), (16, 0)], "auto", None, None, Shape(2, 8, 0)),
        ([(0, 0), (8, 0)], "auto", None, None, Shape(1, 8, 0)),
        ([(8, 0)], "cpu", 3, None, Shape(3, 2, 0)),
        ([(8, 0), (4, 0)], "auto", 4, None, Shape(4, 2, 0)),
        ([(8, 0)], "auto", 2, 4, Shape(2, 4, 0)),
        ([(16, 4), (16, 4), (8, 0)], "auto", None, None, Shape(8, 4, 1)),
        ([(16, 4)], "cuda", 2, None, Shape(2, 8, 1)),
        ([(16, 4)], "cpu", None, None, Shape(1, 16, 0)),
    ],
)
def test_one_for_each_accelerator_or_else_for_each_machine(
    machines, device, workers, threads, expected
):
    assert lay_out(machines, device, workers, threads) == expected


@pytest.mark.parametrize(
    ("machines", "device", "workers", "threads", "sentence"),
    [
        ([(8, 0)], "cuda", None, None, "No machine of the cluster has an accelerator"),
        ([(0, 0)], "cpu", None, None, "No machine of the cluster has a core"),
        ([(8, 2)], "cuda:1", None, None, "leave out its number"),
        ([(8, 2)], "cuda", 3, None, "room for 2 workers with accelerators, not for 3"),
        ([(8, 0)], "auto", 3, 4, "room for 2 workers with 4 threads each, not for 3"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(machines, device, workers, threads, sentence):
    with pytest.raises(OptionError, match=sentence):
        lay_out(machines, device, workers, threads)
