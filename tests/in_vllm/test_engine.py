"""What an engine's configuration must be, and what it is refused for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stet.bundled import DRAFT, TARGET
from stet.core.errors import OptionError
from stet_vllm.desk import Desk, read_settings
from stet_vllm.engine import check_options, settings_in
from stet_vllm.pairing import check_pair


def config(**changed) -> SimpleNamespace:
    draft = SimpleNamespace(
        uses_draft_model=lambda: True,
        rejection_sample_method="standard",
        draft_model_config=SimpleNamespace(model=str(DRAFT), revision=None),
    )
    whole = SimpleNamespace(
        speculative_config=draft,
        parallel_config=SimpleNamespace(
            enable_batch_sharded_sampling=None, worker_extension_cls=""
        ),
        scheduler_config=SimpleNamespace(async_scheduling=False),
        model_config=SimpleNamespace(model=str(TARGET), revision=None, dtype=torch.float32),
        additional_config={},
    )
    for path, value in changed.items():
        owner, _, name = path.rpartition("__")
        setattr(getattr(whole, owner) if owner else whole, name, value)
    return whole


def test_a_plain_configuration_is_accepted():
    check_options(config(), newer=True)
    check_options(config(scheduler_config__async_scheduling=True), newer=True)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"speculative_config": None}, "a draft model and a target"),
        ({"speculative_config__uses_draft_model": lambda: False}, "a draft model and a target"),
        ({"speculative_config__parallel_drafting": True}, "parallel_drafting"),
        ({"speculative_config__use_heterogeneous_vocab": True}, "two vocabularies"),
        ({"speculative_config__enable_adaptive_verification": True}, "adaptive verification"),
        ({"speculative_config__rejection_sample_method": "block"}, "'block'"),
        ({"speculative_config__use_local_argmax_reduction": True}, "local_argmax"),
        ({"parallel_config__enable_batch_sharded_sampling": True}, "batch_sharded"),
        ({"parallel_config__worker_extension_cls": "a.b"}, "'a.b'"),
        ({"watermark_config": object()}, "watermarks"),
        ({"scheduler_config__async_scheduling": True}, "no-async-scheduling"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_policies_cannot_be_used_with_is_refused_by_name(changed, why):
    with pytest.raises(OptionError, match=why):
        check_options(config(**changed), newer=False)


def test_an_engine_that_does_not_ask_is_left_alone():
    assert settings_in(config()) is None
    assert settings_in(config(additional_config=None)) is None
    assert settings_in(config(additional_config=object())) is None
    assert settings_in(config(additional_config={"stet": {}})) == {}


def desk(**settings) -> Desk:
    return Desk(read_settings(settings))


def test_the_bundled_arbiter_belongs_to_the_bundled_pair():
    check_pair(config(), desk(policy="cospec"))
    with pytest.raises(OptionError, match="trained for another pair"):
        check_pair(config(model_config__dtype=torch.bfloat16), desk(policy="cospec"))
    # Rules that are fitted to nothing are anybody's, and no file is opened for them.
    check_pair(config(model_config__model="nowhere"), desk(policy="top-k"))


def test_a_pair_that_cannot_be_told_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes((TARGET / "config.json").read_bytes())
    with pytest.raises(OptionError, match=r'cannot be told.*"check_pair": false'):
        check_pair(config(model_config__model=str(tmp_path)), desk(policy="cospec"))
