"""Stet as the decoding loop of transformers' own `generate`, on models loaded with transformers."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import stet
from stet.bundled import DRAFT, TARGET

PROBLEMS = [
    "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?",
    "Ann has 3 boxes of 12 pens and gives 9 away. How many pens are left?",
]


def main():
    # The bundled weights stand for any two models with one tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(TARGET, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    draft = AutoModelForCausalLM.from_pretrained(DRAFT, dtype=torch.float32)
    chats = [[{"role": "user", "content": problem}] for problem in PROBLEMS]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}

    plain = model.generate(**inputs, max_new_tokens=100)

    # The same call with Stet's loop; the model is the target, and itself again afterwards.
    loop = stet.custom_generate("exact", assistant_model=draft)
    fast = model.generate(**inputs, max_new_tokens=100, custom_generate=loop)

    width = inputs["input_ids"].shape[1]
    for answer, result in zip(fast[:, width:], loop.results, strict=True):
        print(tokenizer.decode(answer, skip_special_tokens=True).strip())
        print(f"  {result.counters.tokens_per_pass:.1f} tokens per pass of the target\n")
    print("the same tokens as without Stet:", torch.equal(plain, fast))


if __name__ == "__main__":
    main()
