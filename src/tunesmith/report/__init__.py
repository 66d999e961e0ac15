"""A finished run told to people: an HTML page, a model card, a table for the terminal; all from one plain dict."""

from tunesmith.report.card import model_card
from tunesmith.report.html import write_report
from tunesmith.report.terminal import render_table

__all__ = ["model_card", "render_table", "write_report"]
