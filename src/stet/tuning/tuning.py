"""Tuning a draft by low-rank updates (LoRA), resumably; the result is an adapter's folder.

Source of the updates: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv 2106.09685. On its target's own texts this is sequence-level distillation (Kim and Rush,
arXiv 1606.07947): what counts for speed is how often both models write the same next token.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stet.core.checkpoint import load_checkpoint, save_checkpoint
from stet.core.errors import CompatibilityError, LoadError
from stet.core.folders import claim_folder
from stet.core.machine import machine, versions
from stet.core.writing import write_text
from stet.models.adapters import check_peft
from stet.models.files import folder_of, gguf_of
from stet.models.head import split_head
from stet.models.pretrained import config_of, weights_of
from stet.models.quantised import method_of
from stet.models.stores import place_of
from stet.tuning.batches import chosen, passes
from stet.tuning.examples import Report
from stet.tuning.request import TuneRequest

STATE, RESULT = "state.safetensors", "tuning.json"
SAVE_SECONDS = 120.0
"""Seconds between states that are kept."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a draft does on the validation examples.

    Attributes:
        step: optimiser steps that it was tuned for.
        loss: nats per token of the answers.
        agreement: share of the answers' tokens that it would write greedily, given those before.
    """

    step: int
    loss: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a tuning.

    Attributes:
        folder: the adapter.
        checks: validations, from the model as it was on.
        best: the one whose state the adapter has.
    """

    folder: Path
    checks: list[Measured]
    best: Measured


def tune(
    base: str | Path,
    request: TuneRequest,
    folder: Path,
    output: Path,
    report: Report,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> Tuned:
    """Tune a model, and write an adapter that `load_pair` takes as a draft.

    Args:
        base: the draft: a folder or a hub name.
        request: examples and settings.
        folder: where the state is kept; a tuning that is started again in it goes on.
        output: folder of the adapter.
        report: called with the progress.
        revision: of the draft on the hub.
        device: where it is trained.

    Raises:
        LoadError: the model cannot be read, or peft is not installed.
        CompatibilityError: it cannot be trained: a GGUF file, a quantised model, or one whose head
            cannot be told from its body.
        StetError: the folder holds another tuning.
    """
    check_peft(str(base))
    claim_folder(folder, request.settings(str(base)), "tuning")
    run = _Run(str(base), request, folder, revision, torch.device(device))
    return run.go(output, report)


class _Run:
    """A tuning and its folder, which is claimed for it."""

    def __init__(
        self,
        base: str,
        request: TuneRequest,
        folder: Path,
        revision: str | None,
        device: torch.device,
    ) -> None:
        self.base, self.request, self.folder, self.device = base, request, folder, device
        self.model, causal = _with_updates(base, request, revision, device)
        body, head, _ = split_head(causal)
        if body is None or head is None:
            raise CompatibilityError(
                f"{base} computes its logits in a way that Stet does not know; tune it with peft, "
                "and give the adapter as --draft."
            )
        self.body, self.head = body, head
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=request.rate, weight_decay=0.0)
        self.step = 0
        self.checks: list[Measured] = []
        self.best: dict[str, Tensor] = {}

    def go(self, output: Path, report: Report) -> Tuned:
        """Train to the end, and write the adapter."""
        self._restore()
        steps = self.request.steps
        marks = {round(steps * n / self.request.checks) for n in range(self.request.checks + 1)}
        last_saved = time.monotonic()
        if not self.checks:
            self._check()
        while self.step < steps:
            self._train_step()
            report("tuning", self.step, steps)
            if self.step in marks:
                self._check()
            if self.step in marks or time.monotonic() - last_saved > SAVE_SECONDS:
                self._save()
                last_saved = time.monotonic()
        return self._finish(output)

    def _train_step(self) -> None:
        """Take an optimiser step."""
        request = self.request
        for group in self.optimiser.param_groups:
            group["lr"] = request.rate * _share(self.step, request.steps)
        some = chosen(request.examples, request.batch, self.step, request.seed)
        tokens = sum(len(example.answer) for example in some)
        self.model.train()
        for batch in passes(some):
            losses, _ = self._losses(batch)
            (losses.sum() / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def _losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Loss of each token of the answers [N], and whether the model would write it."""
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=_computes_in_bfloat16(kind)):
            out = self.body(
                input_ids=batch.ids.to(self.device),
                attention_mask=batch.mask.to(self.device),
                use_cache=False,
            ).last_hidden_state
            # The head is a large part of a small model, and prompts do not need it.
            logits = self.head(out[batch.answers.to(self.device)]).float()
        following = batch.following.to(self.device)
        losses = functional.cross_entropy(logits, following, reduction="none")
        return losses, logits.detach().argmax(-1) == following

    @torch.no_grad()
    def _check(self) -> None:
        """Measure the validation examples, and keep the state where it is the best so far."""
        self.model.eval()
        total, same, count = 0.0, 0, 0
        for batch in passes(self.request.validation):
            losses, agrees = self._losses(batch)
            total += float(losses.sum())
            same += int(agrees.sum())
            count += len(batch.following)
        found = Measured(self.step, round(total / count, 5), round(same / count, 5))
        if not self.checks or found.loss < min(check.loss for check in self.checks):
            self.best = self._updates()
        self.checks.append(found)

    def _updates(self) -> dict[str, Tensor]:
        """The trained weights by name."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def _save(self) -> None:
        """Keep all that training goes on from."""
        told = {"step": self.step, "checks": [asdict(check) for check in self.checks]}
        parts = {"updates": self._updates(), "best": self.best}
        save_checkpoint(self.folder / STATE, parts, self.optimiser, told)

    def _restore(self) -> None:
        """Go on from what is kept, if anything is."""
        path = self.folder / STATE
        if path.is_file():
            parts, told = load_checkpoint(path, self.optimiser)
            self._put(parts["updates"])
            self.best, self.step = parts["best"], told["step"]
            self.checks = [Measured(**check) for check in told["checks"]]

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[name])

    def _finish(self, output: Path) -> Tuned:
        """Write the adapter of the best state."""
        self._put(self.best)
        best = min(self.checks, key=lambda check: check.loss)
        self.model.save_pretrained(str(output), safe_serialization=True)
        (output / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
        record = {
            "settings": self.request.settings(self.base),
            "checks": [asdict(check) for check in self.checks],
            "best": asdict(best),
            "machine": machine(),
            "versions": versions(),
        }
        write_text(output / RESULT, json.dumps(record, indent=1) + "\n")
        return Tuned(output, self.checks, best)


def _with_updates(
    base: str, request: TuneRequest, revision: str | None, device: torch.device
) -> tuple[Any, Any]:
    """The model with its updates, and the causal language model inside of it."""
    from peft import LoraConfig, get_peft_model

    place = place_of(base)
    if gguf_of(place) is not None:
        raise CompatibilityError(
            f"{base} is a GGUF file, which cannot be trained; give the folder or hub name of the "
            "model that it was made from."
        )
    folder = folder_of(place)
    source = base if folder is None else str(folder)
    common = {"revision": revision, "trust_remote_code": False}
    config = config_of(source, base, common)
    method = method_of(config)
    if method is not None:
        raise CompatibilityError(
            f"{base} is quantised with {method} and cannot be trained; give the full-precision one."
        )
    dtype = torch.bfloat16 if _computes_in_bfloat16(device.type) else torch.float32
    causal = weights_of(source, base, config, dtype, None, common)
    if folder is not None:
        # An adapter names its base; relative paths would hang on where it is loaded from.
        causal.name_or_path = str(folder.resolve())
    torch.manual_seed(request.seed)
    settings = LoraConfig(
        r=request.rank,
        lora_alpha=2 * request.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        model: Any = get_peft_model(causal.to(device), settings)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise LoadError(f"{base} cannot be given low-rank updates ({error}).") from error
    return model, model.base_model.model


def _computes_in_bfloat16(kind: str) -> bool:
    """Whether a device computes in bfloat16 by itself; emulated it is many times slower."""
    return kind != "cpu" or torch.cpu._is_avx512_bf16_supported()


def _share(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step."""
    rising = max(1, steps // 20)
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))
