"""From files and tables in memory to batches of tokens. Nothing here imports torch or transformers."""
