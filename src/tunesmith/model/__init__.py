"""The network: an encoder borrowed from transformers, and a head on it."""
