"""WEIGHTS + TOKENIZER + MESH -> the functions that rollout and update are handed."""
