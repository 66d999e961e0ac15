"""`tunesmith index` and `tunesmith search`: a search engine over a corpus of texts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device, check_device
from tunesmith.errors import UsageError, counted
from tunesmith.progress import Progress

_SHOWN = 240
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def index(
    corpus: Annotated[
        str | None,
        typer.Argument(help="Passages to index: a file with a text column (and id, title), or a BEIR directory.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Directory of the index.", show_default=False)] = None,
    model: Annotated[
        str, typer.Option("--model", help="What gives the vectors: a bi-encoder's directory, or any encoder; none: words only.")
    ] = "all-minilm-l6-v2",
    reranker: Annotated[
        str | None, typer.Option("--reranker", metavar="DIR", help="A cross-encoder that puts the first hits in order.", show_default=False)
    ] = None,
    add: Annotated[str | None, typer.Option("--add", metavar="FILE", help="Add these passages to the index in --out.")] = None,
    delete: Annotated[list[str] | None, typer.Option("--delete", metavar="ID", help="Delete the passage with this id; repeatable.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Name of the text column, where it is not a usual one.")] = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="Character encoding of the file, UTF-8 unless told.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the index in --out.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Index a corpus for search by words (BM25) and by meaning (vectors); or add to and delete from an index."""
    check_device(device)
    if out is None:
        raise UsageError("no place for the index: name it with -o DIR.")
    changes = add is not None or bool(delete)
    if (corpus is None) != changes:
        raise UsageError(
            "name a corpus to build an index from: tunesmith index CORPUS -o DIR; or change the one in -o DIR with --add and --delete."
            if corpus is None
            else "CORPUS builds an index anew; to change the one in -o DIR, leave CORPUS out and pass --add FILE or --delete ID."
        )
    if "-" in (corpus, add):
        raise UsageError("the corpus is read from a file: standard input has no name to tell its format by. Save it to a file first.")
    file = corpus if corpus is not None else add
    source = _corpus(file, encoding) if file is not None else None
    from tunesmith.search import SearchIndex
    from tunesmith.search.store import passages_of

    progress = Progress("quiet" if quiet else "auto")
    if corpus is not None and source is not None:
        found = SearchIndex.build(
            passages_of(source, text),
            out,
            name=source.name,
            model=None if model == "none" else model,
            reranker=reranker,
            overwrite=overwrite,
            device=device,
            progress=progress,
        )
    else:
        found = SearchIndex(out, device)
        if source is None:
            found = found.delete(delete or [], progress=progress)
        else:
            found = found.replace(delete or [], passages_of(source, text), name=source.name, progress=progress)
    kept = {"out": str(out), "passages": len(found), **{key: found.manifest[key] for key in ("model", "reranker")}}
    vectors = f"vectors by {kept['model']}" if kept["model"] is not None else "no vectors"
    ranked = f", re-ranked by {kept['reranker']}" if kept["reranker"] is not None else ""
    print(f"{out}: {counted(len(found), 'passage')}, words by BM25, {vectors}{ranked}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(kept, ensure_ascii=False))


def search(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The index, as written by tunesmith index.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to search for.")],
    count: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many hits.")] = 10,
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Whether the index's cross-encoder orders the first hits.")] = True,
    device: Device = "cpu",  # one query is computed sooner than a GPU is ready
    as_json: Json = False,
) -> None:
    """Print the best passages for a query, best first."""
    check_device(device)
    from tunesmith.search import SearchIndex

    found = SearchIndex(directory, device).search(query, count, rerank=rerank)
    if as_json:
        print(json.dumps({"query": query, "hits": [asdict(one) for one in found]}, ensure_ascii=False))
        return
    if not found:
        print("nothing was found.")
    for one in found:
        print(f"{one.rank:>3}  {one.score:.4f}  {one.id}{f'  {_line(one.title)}' if one.title else ''}")
        print(f"     {_line(one.text)}")


def _line(text: str) -> str:
    """Return the text in one line, without what a terminal would take for orders."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _corpus(path: str, encoding: str | None) -> Any:
    from tunesmith.data.beir import CORPUS
    from tunesmith.data.readers import open_file

    inside = Path(path) / CORPUS
    return open_file(inside if inside.is_file() else path, encoding=encoding)
