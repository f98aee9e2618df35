"""GGUF files: read with care, and made into transformers models.

The way of a file: `header` parses its front matter, `architecture` and `settings` say what the
model is in transformers' words, `tokens` makes its tokenizer, `file` puts these together and hands
out the weights as they are packed, `unpacking` computes their values, and `loading` fills a model.
"""
