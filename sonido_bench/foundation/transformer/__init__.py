"""Factorised-attention transformers over token sequences, shared by the foundation models."""
