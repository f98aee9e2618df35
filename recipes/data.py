"""Training data: problems written once to disk as token ids, read back in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sources import Source, Text
from tokenizers import Tokenizer

from stet.bundled import DEFAULT_DIFFICULTY

IGNORED = -100

Part = Literal["training", "validation"]


@dataclass(frozen=True)
class Data:
    """Token ids of many problems, end to end.

    Attributes:
        ids: All ids, `uint16 [tokens]`.
        starts: Where each problem starts, and the end of the last, `int64 [problems + 1]`.
        prompts: Length of each prompt, `int16 [problems]`.
    """

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each problem, prompt and solution."""
        return np.diff(self.starts)


def load(cache: Path, tokenizer_file: Path, source: Source, part: Part, count: int) -> Data:
    """The problems of a source, generated on first use and cached.

    Args:
        cache: the folder to keep them in.
        tokenizer_file: what cuts them into tokens.
        source: of the problems.
        part: those to train on, or those to judge by.
        count: of those to judge by.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    settings = {
        "tokenizer": hashlib.sha256(tokenizer_file.read_bytes()).hexdigest()[:16],
        "difficulty": asdict(DEFAULT_DIFFICULTY),
        "source": type(source).__name__,
        **asdict(source),  # type: ignore[call-overload]
        "part": part,
        "count": count,
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / "data" / name
    if not (folder / "settings.json").exists():
        problems = source.training() if part == "training" else source.validation(count)
        _write(folder, tokenizer, problems)
        (folder / "settings.json").write_text(json.dumps(settings, indent=2))
    return Data(
        *(np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("ids", "starts", "prompts"))
    )


def _write(folder: Path, tokenizer: Tokenizer, problems: Iterable[Text]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id("<|end|>")
    ids: list[np.ndarray] = []
    prompts: list[int] = []
    stream = iter(problems)
    while chunk := list(islice(stream, 4096)):
        prompt_ids = tokenizer.encode_batch([p.prompt for p in chunk])
        solution_ids = tokenizer.encode_batch([p.solution for p in chunk])
        for prompt, solution in zip(prompt_ids, solution_ids, strict=True):
            ids.append(np.array([*prompt.ids, *solution.ids, end], dtype=np.uint16))
            prompts.append(len(prompt.ids))
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(
        folder / "starts.npy",
        np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64),
    )
    np.save(folder / "prompts.npy", np.array(prompts, dtype=np.int16))


@dataclass(frozen=True)
class Batch:
    """Problems of similar length, padded on the right.

    Attributes:
        ids: `int64 [problems, length]`; the pads come after every real token, so a causal model
            needs no mask.
        labels: The next token at each position, `IGNORED` at pads.
        weights: Weight of each label's loss, `float32 [problems, length]`.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


def batch_of(data: Data, chosen: np.ndarray, prompt_weight: float) -> Batch:
    """These problems as one batch."""
    length = -(-int(data.lengths[chosen].max()) // 8) * 8
    ids = np.zeros((len(chosen), length), dtype=np.int64)
    labels = np.full((len(chosen), length), IGNORED, dtype=np.int64)
    weights = np.zeros((len(chosen), length), dtype=np.float32)
    for row, index in enumerate(chosen):
        text = data.ids[data.starts[index] : data.starts[index + 1]]
        ids[row, : len(text)] = text
        labels[row, : len(text) - 1] = text[1:]
        weights[row, : len(text) - 1] = 1.0
        weights[row, : data.prompts[index] - 1] = prompt_weight
    return Batch(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(weights))


def batches(
    data: Data,
    batch_tokens: int,
    prompt_weight: float,
    seed: int,
    skip: int = 0,
    every: int = 1,
) -> Iterator[Batch]:
    """Endless batches; a seed gives the same ones again, and `skip` resumes after so many.

    With `every`, only one in so many is yielded: process `r` of `n` takes the batches of
    `skip=n * steps + r, every=n`, and all together those of `skip=n * steps`.

    Problems of a pool are sorted by length and cut into batches, which are then shuffled: little
    padding, and still a random mixture.
    """
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(data))
        lengths = data.lengths
        for pool_start in range(0, len(order), 16384):
            pool = order[pool_start : pool_start + 16384]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            groups: list[np.ndarray] = []
            start = 0
            while start < len(pool):
                stop = start + 1
                while stop < len(pool) and (stop + 1 - start) * lengths[pool[stop]] <= batch_tokens:
                    stop += 1
                groups.append(pool[start:stop])
                start = stop
            for group in rng.permutation(len(groups)):
                if skip:
                    skip -= 1
                    continue
                skip = every - 1
                yield batch_of(data, groups[group], prompt_weight)
        epoch += 1
