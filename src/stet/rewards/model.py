"""Process reward models of transformers: sequence classifiers and token classifiers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stet.core.errors import CompatibilityError, LoadError, StetError, first_line
from stet.core.needs import Need
from stet.core.operations import Await, Operation
from stet.core.tensors import upload
from stet.rewards.base import check_rewards, passages
from stet.rewards.batching import Batcher

if TYPE_CHECKING:
    from stet.core.step_policy import Step

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
"""The suffixes of the names of supported architectures."""


@dataclass(eq=False)
class ModelReward:
    """A reward model: a classifier that reads prompt, steps so far and candidate as one text.

    A sequence classifier rates the text, a token classifier its last token. With one label the
    reward is the sigmoid of its logit; with several it is the probability of the last one. The
    text has no special tokens but those that the classifier's own tokenizer adds.

    Attributes:
        model: a transformers classifier.
        tokenizer: the classifier's tokenizer.
        name: folder or hub name, for traces and messages.
        max_length: the longest text, in the classifier's tokens; None for any.
        max_batch: the largest number of texts in a batch.
        pair: fingerprint of the only pair that it may be used with; None for any.
    """

    model: Any
    tokenizer: Any
    name: str = "reward model"
    max_length: int | None = None
    max_batch: int = 16
    pair: str | None = None
    needs: ClassVar[frozenset[Need]] = frozenset()
    _by_token: bool = field(init=False, repr=False)
    _pad: int = field(init=False, repr=False)
    _batcher: Batcher[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare the model for reading batches.

        Raises:
            CompatibilityError: the model is no classifier.
            OptionError: `max_batch` is not positive.
        """
        kind = _kind([type(self.model).__name__])
        if kind is None:
            raise CompatibilityError(
                f"{self.name} is a {type(self.model).__name__}, no sequence or token classifier; "
                "give a function of prompt, steps and candidate that calls it."
            )
        self._by_token = kind == TOKEN
        config: Any = self.model.config
        pads = (self.tokenizer.pad_token_id, config.pad_token_id, self.tokenizer.eos_token_id, 0)
        self._pad = next(pad for pad in pads if pad is not None)
        # A sequence classifier over a decoder finds the last token of a padded text by it.
        config.pad_token_id = self._pad
        self.model.eval()
        self.model.requires_grad_(False)
        self._batcher = Batcher(self.read, self.max_batch, f"The reward {self.name!r}")

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        max_length: int | None = None,
        max_batch: int = 16,
    ) -> ModelReward:
        """Load a classifier and its tokenizer, from safetensors only and without remote code.

        Args:
            name_or_path: a folder, or a name on the Hugging Face hub.
            dtype: "auto" (as saved; on a CPU float32), "float32", "bfloat16" or "float16".
            device: "auto" (CUDA if there is any), "cpu", "cuda", "cuda:1", ...
            revision: branch, tag or commit on the hub.
            max_length: the longest text in tokens; None: the model's context length.
            max_batch: the largest number of texts in a batch.

        Raises:
            LoadError: files are missing or unreadable.
            CompatibilityError: the model is no classifier, or needs remote code.
        """
        # transformers takes a second to import, and most policies never need it.
        from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

        from stet.models import loading, pretrained
        from stet.models.compatibility import context_length
        from stet.models.files import folder_of

        name = str(name_or_path)
        folder = folder_of(name)
        source = name if folder is None else str(folder)
        common: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        config: Any = pretrained.config_of(source, name, common)
        kind = _kind(config.architectures or [])
        if kind is None:
            raise CompatibilityError(
                f"{name} is no sequence or token classifier ({config.architectures}); give a "
                "reward model, or a function of prompt, steps and candidate that calls this one."
            )
        place = loading.device_of(device)
        wanted = loading.dtype_of(dtype)
        if wanted == "auto" and place.type == "cpu":
            # Few CPUs compute in half precision; the others emulate it, many times slower.
            wanted = torch.float32
        auto: Any = (
            AutoModelForTokenClassification if kind == TOKEN else AutoModelForSequenceClassification
        )
        try:
            model, report = auto.from_pretrained(
                source,
                config=config,
                dtype=wanted,
                use_safetensors=True,
                output_loading_info=True,
                **common,
            )
        except Exception as error:
            raise LoadError(
                f"The weights of {name} could not be loaded ({first_line(error)}); check "
                "that its *.safetensors files are complete."
            ) from error
        if missing := sorted(report.get("missing_keys", ())):
            raise LoadError(
                f"{name} lacks {len(missing)} of its weights, such as {missing[0]}; it is not a "
                "trained reward model, or its files are incomplete."
            )
        return cls(
            model.to(place),
            pretrained.tokenizer_of(source, name, common),
            name=name,
            max_length=max_length if max_length is not None else context_length(config),
            max_batch=max_batch,
        )

    def rate(self, step: Step) -> Generator[Operation, Any, list[float]]:
        """Rate the candidates of a step; texts of all requests are batched.

        Raises:
            StetError: a text is too long, or the model returns no number.
        """
        texts = [passage.text for passage in passages(step)]
        rewards: list[float] = yield Await(self._batcher.ask(texts))
        return check_rewards(rewards, len(texts), self.name)

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> list[float]:
        """Compute the reward of each text, 0 to 1.

        Raises:
            StetError: a text is longer than the model can read.
        """
        encoded: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
        longest = max(len(tokens) for tokens in encoded)
        if self.max_length is not None and longest > self.max_length:
            raise StetError(
                f"The reward model {self.name} reads {self.max_length} tokens and this prompt "
                f"with its steps has {longest}; lower max_new_tokens, or choose another reward."
            )
        device: torch.device = self.model.get_input_embeddings().weight.device
        # Padded on the right, so that positions count from the beginning of each text.
        rows = [tokens + [self._pad] * (longest - len(tokens)) for tokens in encoded]
        mask = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in encoded]
        tokens, present = upload(rows, device), upload(mask, device)
        logits: Tensor = self.model(input_ids=tokens, attention_mask=present).logits.float()
        if self._by_token:
            logits = logits[torch.arange(len(rows), device=device), present.sum(1) - 1]
        probabilities = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        rewards: list[float] = probabilities[:, -1].tolist()
        return rewards


def _kind(architectures: Sequence[str]) -> str | None:
    return next((k for k in (SEQUENCE, TOKEN) for name in architectures if name.endswith(k)), None)
