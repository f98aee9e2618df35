"""A pair that writes from a script, for tests of what is done with its words."""

from dataclasses import dataclass, field


class Letters:
    """A tokenizer whose tokens are characters; token 0 ends a text."""

    def __call__(self, text):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(i) for i in ids if i)


@dataclass
class Written:
    """The result of a request."""

    text: str
    token_ids: list[int]
    error: str | None = None


@dataclass
class ScriptedPair:
    """Continues prompts as a function says.

    Attributes:
        writes: from the text so far, and how often that was asked before, to its continuation.
        asked: every text that was continued, in order.
        options: of each call.
    """

    writes: object
    tokenizer: Letters = field(default_factory=Letters)
    end_tokens: frozenset[int] = frozenset({0})
    max_length: int = 10_000
    asked: list[str] = field(default_factory=list)
    options: list[dict] = field(default_factory=list)

    def generate(self, prompts, policy="exact", **options):
        assert policy == "exact"
        self.options.append(options)
        results = []
        for prompt in prompts:
            before = prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)
            text = self.writes(before, self.asked.count(before))
            self.asked.append(before)
            ids = [*map(ord, text), 0][: options["max_new_tokens"]]
            results.append(Written(self.tokenizer.decode(ids), ids))
        return results


def letters(text: str) -> tuple[int, ...]:
    """A text as tokens."""
    return tuple(map(ord, text))
