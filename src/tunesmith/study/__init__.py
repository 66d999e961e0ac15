"""Searching for settings: trainings with different ones, compared on the validation rows, kept in a study that can be resumed."""
