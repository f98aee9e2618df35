"""Train the tokenizer of the bundled pair: lossless byte-level BPE with single digits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sources import Text
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 1024
END, PAD = "<|end|>", "<|pad|>"

# A digit stands alone, so that a number is always cut the same way. A word or a sign may take the
# space before it and, before a number, also the one after it: " = " and " has " are one token.
# The last line break of a run stands alone, so that a step's end is always the same token.
PIECES = r"\p{N}| ?\p{L}+(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\n|[^\S\n]+"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- 'Problem: ' + message['content'] + '\nSolution:\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def train(problems: Iterable[Text]) -> Tokenizer:
    """Learn the merges from problems."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[END, PAD],
        # All 256 bytes, so that any text can be written and read back.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    texts = (problem.prompt + problem.solution for problem in problems)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that transformers' AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
