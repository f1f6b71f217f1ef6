"""Data: corpora, tokenizers and memory-mapped tokens."""
