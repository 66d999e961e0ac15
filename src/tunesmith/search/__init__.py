"""Search over a corpus: words (BM25) and vectors fused, re-ranked by a cross-encoder."""

from tunesmith.search.index import Found, SearchIndex

__all__ = ["Found", "SearchIndex"]
