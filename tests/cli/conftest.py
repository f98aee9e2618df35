"""A pair that needs no models: it answers with words whose authors take turns."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import stet
from stet.core.errors import StetError
from stet.core.result import Chunk
from stet.core.trace import BlockRecord, Counters, RequestTrace, Settings, TokenRecord
from stet.engine.costs import Costs

WORDS = ("Six", " times", " seven", " is", " 42", ".")


@dataclass
class FakeResult:
    number: int
    prompt: str
    text: str = "".join(WORDS)
    finish_reason: str = "stop"
    seconds: float = 0.5
    error: str | None = None
    drafted: int = 2
    seed: int = 0

    @property
    def tokens(self):
        origins = ["draft", "draft", "target"] * 2
        return [
            TokenRecord(i, word, origin, "accepted" if origin == "draft" else "recovered")
            for i, (word, origin) in enumerate(zip(WORDS, origins, strict=True))
        ]

    @property
    def counters(self):
        return Counters(
            emitted_tokens=6,
            drafts=2,
            drafted_tokens=2 * self.drafted,
            accepted_tokens=4,
            accepted_per_position=[2, 2],
            target_passes=2,
            draft_passes=2 * self.drafted,
            target_seconds=0.2,
            draft_seconds=0.1,
        )

    @property
    def trace(self):
        blocks = [BlockRecord(at, [0] * self.drafted, 2, [], 1) for at in (0, 3)]
        settings = Settings({"name": "exact"}, True, {}, {}, {}, None, "0")
        return RequestTrace(
            request=self.number,
            settings=settings,
            prompt=self.prompt,
            prompt_tokens=3,
            text=self.text,
            finish_reason=self.finish_reason,
            seconds=self.seconds,
            tokens=self.tokens,
            blocks=blocks,
            counters=self.counters,
        )


class FakeTokenizer:
    chat_template = "{{ messages }}"


@dataclass
class FakePair:
    """Records how it is called; `fail` names a prompt that fails, `interrupt` one for Ctrl-C."""

    calls: list = field(default_factory=list)
    fail: str | None = None
    interrupt: str | None = None
    backwards: bool = False
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    target: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            name="models/big", device=SimpleNamespace(type="cpu"), parameter_bytes=10**9
        )
    )
    draft: None = None
    difference: None = None
    arguments: dict | None = None
    asked_for: list = field(default_factory=list)

    @property
    def models(self):
        return [self.target]

    def costs_with(self, threads):
        self.asked_for.append(threads)
        return Costs({1: 1.0}, {1: 1.0 + 1 / threads})

    def render(self, messages, **arguments):
        self.arguments = arguments
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)

    def generate(self, prompts, policy="exact", *, on_progress=None, **options):
        self.calls.append((list(prompts), policy, options))
        results = [FakeResult(i, prompt) for i, prompt in enumerate(prompts)]
        for result in results:
            if result.prompt == self.fail:
                result.error = "The cache is full."
                result.finish_reason = "error"
        order = reversed(results) if self.backwards else results
        for result in order:
            if result.prompt == self.interrupt:
                result.finish_reason = "cancelled"
                on_progress(result)
                raise KeyboardInterrupt
            if on_progress is not None:
                on_progress(result)
        return results

    def stream(self, prompt, policy="exact", **options):
        self.calls.append(([prompt], policy, options))
        result = FakeResult(0, prompt)
        for i, token in enumerate(result.tokens):
            if prompt == self.interrupt and i == 3:
                raise KeyboardInterrupt
            last = i == len(result.tokens) - 1
            yield Chunk(token.text, [token], "stop" if last else None, result if last else None)


@dataclass
class Loader:
    pair: FakePair
    arguments: dict = field(default_factory=dict)
    error: StetError | None = None

    def __call__(self, target=None, draft=None, **options):
        self.arguments = {"target": target, "draft": draft, **options}
        if self.error is not None:
            raise self.error
        return self.pair


@pytest.fixture
def loader(monkeypatch):
    """Stands in for `stet.load_pair`."""
    loader = Loader(FakePair())
    monkeypatch.setitem(stet.__dict__, "load_pair", loader)  # the real one would load torch
    return loader


@pytest.fixture
def pair(loader):
    return loader.pair


@pytest.fixture
def run():
    """Run `stet` with arguments; the result has stdout, stderr and exit_code."""
    from stet.cli import app

    def run(*arguments, stdin=None):
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return run
