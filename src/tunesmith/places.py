"""The names of files in a model directory."""

DESCRIPTION = "tunesmith.json"
"""Written last: a directory with it is a whole model."""
HEAD_FILE = "head.safetensors"
"""The weights of a head that is not transformers'."""
CHECKPOINTS = "checkpoints"
"""The directory of checkpoints, while training goes on."""
