"""The command line. Nothing here imports torch or transformers before a command needs them."""
