"""What the tests of the plug-in share: jobs for engines of vLLM, and Stet's own answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from stet import load_pair
from stet.bundled import DRAFT, TARGET, generate
from stet.core.errors import OptionError
from stet.policies import available
from stet_vllm.desk import usable

HERE = Path(__file__).parent
TOKENS = 48
PROMPTS = 20

Job = dict[str, Any]


def run_engine(batches: list[list[Job]], *, newer: bool = False, **job: Any) -> Job:
    """Run requests in an engine, batch after batch.

    Args:
        batches: requests, each with `prompt` (token ids) and `sampling`.
        newer: whether with the newer model runner, whose kernels are interpreted here.
        **job: see `run_engine.py`.
    """
    environment = dict(os.environ)
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if job.get("ranks"):
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(job["ranks"])))
    paths = [str(HERE), str(HERE / "policies")]
    if newer:
        environment |= {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        paths.append(str(HERE / "interpreter_backend"))
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    defaults = {"target": str(TARGET), "draft": str(DRAFT), "k": 6, "settings": {"allow": ["all"]}}
    with tempfile.TemporaryDirectory() as name:
        answer = Path(name) / "answer.json"
        whole = {**defaults, **job, "batches": batches, "answer": str(answer), "interpreted": newer}
        ran = subprocess.run(
            [sys.executable, str(HERE / "run_engine.py")],
            input=json.dumps(whole),
            text=True,
            capture_output=True,
            env=environment,
            timeout=900,
        )
        if not answer.exists():
            raise RuntimeError(
                f"The engine ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-9000:]}"
            )
        found: Job = json.loads(answer.read_text())
    assert found["newer"] == newer
    return found


def greedy(prompt: list[int], policy: str | None = None, **sampling: Any) -> Job:
    """A request at temperature 0, by a policy."""
    own = {} if policy is None else {"extra_args": {"stet": policy}}
    return {
        "prompt": prompt,
        "sampling": {"temperature": 0.0, "max_tokens": TOKENS, **own, **sampling},
    }


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    """Prompts of the bundled pair, as tokens."""
    read = own_pair().tokenizer
    problems = generate("stories", "test", PROMPTS)
    return tuple(tuple(read(problem.text)["input_ids"]) for problem in problems)


@cache
def own_pair() -> Any:
    """The bundled pair in Stet's own engine."""
    return load_pair(TARGET, DRAFT, dtype="float32")


def by_stet(policy: str, firsts: list[int]) -> list[list[int]]:
    """What Stet's own engine writes after each prompt and its answer's first token.

    Inside vLLM that token is the target's, whatever the policy, since nothing is drafted before it.
    """
    asked = [[*prompt, first] for prompt, first in zip(prompts(), firsts, strict=False)]
    results = own_pair().generate(asked, policy, max_new_tokens=TOKENS - 1)
    return [list(result.token_ids) for result in results]


def own_logprobs(prompt: list[int], answer: list[int]) -> list[float]:
    """Log-probabilities of an answer under the target, in Stet's own engine."""
    reading = own_pair().read([*prompt, *answer])
    return [float(value) for value in reading.logprobs[len(prompt) :]]


def token_policies() -> list[str]:
    """The policies that can decide inside vLLM and whose greedy text does not depend on blocks."""
    found = []
    for cls in available():
        try:
            policy = usable(cls())
        except OptionError:
            continue
        if policy.block_invariant and not policy.control:
            found.append(policy.name)
    return found


def texts_equal(found: list[Job], policy: str) -> int:
    """How many texts of a policy are those of Stet's own engine."""
    firsts = [one["tokens"][0] for one in found]
    own = by_stet(policy, firsts)
    return sum(one["tokens"][1:] == text for one, text in zip(found, own, strict=True))
