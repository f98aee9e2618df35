"""Who is compared with whom: groups of contenders that take turns, small enough to be in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _peers_prompts as prompts
import _peers_setup as setup
from _peers_contenders import (
    family,
    llama_contenders,
    stet_contenders,
    transformers_contenders,
)
from _peers_turns import Contender, Prompt
from _peers_workers import Spec

from stet.bundled import DRAFT, TARGET


@dataclass(frozen=True)
class Group:
    """Contenders that answer the same prompts in turns.

    Attributes:
        name: in records.
        about: in one line, for the result file.
        specs: the workers.
        contenders: all settings of all contenders.
        prompts: what is measured.
        others: prompts on which the best setting of a family is chosen; they also warm up.
        limit: `max_new_tokens`.
        chosen: a group whose choice of settings is taken over, in place of one on `others`.
    """

    name: str
    about: str
    specs: Sequence[Spec]
    contenders: Sequence[Contender]
    prompts: Sequence[Prompt]
    others: Sequence[Prompt]
    limit: int
    chosen: str | None = None


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        prompts: of GSM8K, for the 4-bit group.
        slow: of GSM8K, for the bfloat16 groups, a part of the same.
        each: prompts of each of Spec-Bench's groups.
        bundled: problems of the bundled pair.
        others: prompts on which settings are chosen.
        limit: tokens of an answer in 4 bits.
        short: tokens of an answer in bfloat16 and on Spec-Bench.
        repeats: of bare passes.
    """

    prompts: int = 8
    slow: int = 4
    each: int = 2
    bundled: int = 24
    others: int = 2
    limit: int = 96
    short: int = 48
    repeats: int = 8


QUICK = Sizes(prompts=2, slow=1, each=1, bundled=4, others=1, limit=24, short=16, repeats=2)


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        target: the target, without its ending: `NAME.gguf` and the folder `NAME` beside it.
        draft: the draft, likewise.
        environments: folder of the peers' environments.
        gsm8k: folder of GSM8K's files.
        spec_bench: Spec-Bench's `question.jsonl`; None: left out.
        openvino_draft: the draft in types that OpenVINO reads; None: the GGUF file itself.
    """

    target: Path
    draft: Path
    environments: Path
    gsm8k: Path
    spec_bench: Path | None
    openvino_draft: Path | None = None

    @property
    def packed(self) -> dict[str, str]:
        """The pair's GGUF files."""
        return {"target": f"{self.target}.gguf", "draft": f"{self.draft}.gguf"}

    @property
    def dense(self) -> dict[str, str]:
        """The same weights, dequantised."""
        return {"target": str(self.target), "draft": str(self.draft)}


@dataclass
class Groups:
    """The groups of a run."""

    places: Places
    sizes: Sizes
    threads: int = 2
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        tokenizer = prompts.tokenizer_of(self.places.target)
        sizes, places = self.sizes, self.places
        self.ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
        self.test = prompts.gsm8k(places.gsm8k, tokenizer, "test", sizes.prompts)
        self.train = prompts.gsm8k(places.gsm8k, tokenizer, "train", sizes.others)
        self.spec: list[Prompt] = []
        if places.spec_bench is not None:
            self.spec = prompts.spec_bench(places.spec_bench, tokenizer, sizes.each)

    def all(self) -> list[Group]:
        """All groups, in the order in which they are run."""
        found = [self.quantised(), self.dense(), self.openvino(), self.bundled(), self.vllm()]
        found.append(self.lengths())
        return [*found, self.tasks()] if self.spec else found

    def quantised(self) -> Group:
        """Stet and llama.cpp on 4-bit files."""
        ours, llama = self._stet_packed(), self._llama()
        return Group(
            "4-bit",
            "GSM8K, GGUF files of 4 bits",
            (ours, llama),
            [*stet_contenders("stet 4-bit", ours.name), *llama_contenders(llama.name)],
            self.test,
            self.train,
            self.sizes.limit,
        )

    def openvino(self) -> Group:
        """Stet and OpenVINO on 4-bit files."""
        ours = self._stet_packed()
        shared = {**self.places.packed, "threads": self.threads, "ends": self.ends}
        shared["draft"] = str(self.places.openvino_draft or shared["draft"])
        target, lookup, draft = (
            setup.openvino(f"openvino-{mode}", {**shared, "mode": mode}, self.places.environments)
            for mode in ("target", "lookup", "draft")
        )
        return Group(
            "openvino",
            "GSM8K, GGUF files of 4 bits, OpenVINO",
            (ours, target, lookup, draft),
            [
                *stet_contenders("stet 4-bit", ours.name),
                Contender("OpenVINO target", target.name, {}),
                *family("OpenVINO lookup", lookup.name, [{"length": n} for n in (3, 5)]),
                *family("OpenVINO draft", draft.name, [{"length": n} for n in (2, 4)]),
            ],
            self.test[: self.sizes.slow],
            self.train[:1],
            self.sizes.limit,
        )

    def lengths(self) -> Group:
        """Stet with blocks of each length, for speed-up against K."""
        ours = self._stet_packed()
        fixed = [
            Contender(f"exact K={k}", ours.name, {"policy": "exact", "draft_length": k})
            for k in (1, 2, 3, 4, 6, 8)
        ]
        return Group(
            "lengths",
            "GSM8K, 4 bits, Stet's `exact` with blocks of one length",
            (ours,),
            [*stet_contenders("stet 4-bit", ours.name), *fixed],
            self.test[: self.sizes.slow],
            self.train,
            self.sizes.short,
        )

    def dense(self) -> Group:
        """Stet and transformers in bfloat16, beside Stet in 4 bits."""
        ours, theirs = self._stet_dense(), self._transformers()
        packed = self._stet_packed()
        contenders = [
            *stet_contenders("stet bf16", ours.name),
            stet_contenders("stet 4-bit", packed.name)[1],
            *transformers_contenders(theirs.name, [None, 2, 4, 6], [3, 6]),
        ]
        return Group(
            "bf16",
            "GSM8K, bfloat16",
            (ours, theirs, packed),
            contenders,
            self.test[: self.sizes.slow],
            self.train[:1],
            self.sizes.short,
        )

    def vllm(self) -> Group:
        """VLLM on a CPU, beside Stet."""
        ours, packed = self._stet_dense(), self._stet_packed()
        specs, contenders = self._vllm("vllm", self.places.dense, "bfloat16", self.threads, (4,))
        return Group(
            "vllm",
            "GSM8K, bfloat16, vLLM",
            (ours, packed, *specs),
            [
                stet_contenders("stet bf16", ours.name)[0],
                stet_contenders("stet 4-bit", packed.name)[1],
                *contenders,
            ],
            self.test[: self.sizes.slow],
            self.train[:1],
            self.sizes.short,
        )

    def bundled(self) -> Group:
        """The bundled pair, in float32 and with one thread, which suits models so small best."""
        own = {"target": None, "draft": None, "threads": 1, "max_batch": 1, "dtype": "float32"}
        eager = setup.stet("stet-eager", {**own, "compile": False})
        compiled = setup.stet("stet-compiled", {**own, "compile": True})
        paths = {"target": str(TARGET), "draft": str(DRAFT)}
        theirs = setup.transformers(
            "transformers-bundled", {**paths, "threads": 1, "dtype": "float32"}
        )
        specs, contenders = self._vllm("vllm-bundled", paths, "float32", 1, (6,))
        tokenizer = prompts.tokenizer_of(None)
        return Group(
            "bundled",
            "bundled pair, float32",
            (eager, compiled, theirs, *specs),
            [
                *stet_contenders("stet", eager.name),
                *stet_contenders("stet compiled", compiled.name),
                *transformers_contenders(theirs.name, [None, 3, 5, 8], []),
                *contenders,
            ],
            prompts.bundled(tokenizer, "test", self.sizes.bundled),
            prompts.bundled(tokenizer, "validation", 4 * self.sizes.others),
            160,
        )

    def tasks(self) -> Group:
        """Spec-Bench's groups of prompts, in 4 bits."""
        ours, llama = self._stet_packed(), self._llama()
        return Group(
            "spec-bench",
            "Spec-Bench, GGUF files of 4 bits",
            (ours, llama),
            [*stet_contenders("stet 4-bit", ours.name), *llama_contenders(llama.name)],
            self.spec,
            self.train,
            self.sizes.short,
            chosen="4-bit",
        )

    def reference(self) -> Group:
        """The texts of the target in float32."""
        # Assisted generation is lossless, and the texts are not timed.
        spec = setup.transformers(
            "reference", {**self.places.packed, "threads": self.threads, "dtype": "float32"}
        )
        contender = Contender("float32", spec.name, {"mode": "assisted", "length": 4})
        return Group(
            "reference",
            "the target in float32, by transformers from the GGUF file",
            (spec,),
            [contender],
            self.test,
            (),
            self.sizes.limit,
        )

    def rounds(self) -> tuple[Spec, Spec]:
        """The workers in which rounds are measured: the real pair, and the bundled one."""
        real = self._stet_packed(max_batch=8)
        load = {"target": None, "draft": None, "threads": 1, "max_batch": 32, "dtype": "float32"}
        return real, setup.stet("rounds-bundled", load)

    def _stet_packed(self, **more: Any) -> Spec:
        load = {**self.places.packed, "threads": self.threads, "max_batch": 1, "max_length": 1024}
        return setup.stet("stet-4-bit", {**load, "packed": True, **more})

    def _stet_dense(self) -> Spec:
        load = {**self.places.dense, "threads": self.threads, "max_batch": 1, "max_length": 1024}
        return setup.stet("stet-bf16", {**load, "dtype": "bfloat16"})

    def _llama(self) -> Spec:
        load = {**self.places.packed, "threads": self.threads, "context": 1024}
        return setup.llama("llama.cpp", load, self.places.environments)

    def _transformers(self) -> Spec:
        load = {**self.places.dense, "threads": self.threads, "dtype": "bfloat16"}
        return setup.transformers("transformers", load)

    def _vllm(
        self, name: str, paths: dict[str, str], dtype: str, threads: int, lengths: Sequence[int]
    ) -> tuple[list[Spec], list[Contender]]:
        """Its workers, one for each number of drafted tokens, and contenders.

        An engine takes a minute to start, so there is no grid: the numbers are those that were
        fastest when these pairs were tried in vLLM before.
        """
        specs: list[Spec] = []
        contenders: list[Contender] = []
        ends = self.ends if dtype == "bfloat16" else [0]
        load = {**paths, "threads": threads, "dtype": dtype, "ends": ends, "eager": False}
        for length in (None, *lengths):
            spec = setup.vllm(
                f"{name}-{length or 'target'}",
                {**load, "context": 512, "length": length},
                self.places.environments,
            )
            specs.append(spec)
            if length is None:
                contenders.append(Contender("vLLM target", spec.name, {}))
            else:
                label = f"vLLM draft K={length}"
                contenders.append(Contender(label, spec.name, {}, family="vLLM draft"))
        return specs, contenders
