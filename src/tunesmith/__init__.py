"""tunesmith: fine-tune a text encoder, from a file of labelled rows to a tested, saved model."""

__version__ = "0.1.0"
