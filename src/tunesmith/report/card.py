"""The model card: README.md in the format of the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tunesmith.errors import counted
from tunesmith.report import changes, folds, view, wording

_PER_LABEL_ROWS = 60

# The Hub names a metric and its averaging apart.
_HUB_NAMES = {"matthews": "matthews_correlation"}


def model_card(result: view.Result) -> str:
    """Return README.md for a result: YAML front matter, how to load the model, results, data account, measured limitations.

    Paths of data files are reduced to file names, and a base model that is a local path is left out of the front matter:
    a card is made to be published.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        # Markdown of code and tables: `escaped` below is applied where text of the user stands, HTML escaping would show in code
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number,
        "figure": wording.figure,
        "count": wording.count,
        "counted": counted,
        "score": view.score,
        "precision": view.precision,
        "interval": wording.interval,
        "setting": wording.setting,
        "split_name": view.split_name,
        "unit": view.unit,
        "has_share_right": view.has_share_right,
        "escaped": escaped,
        "public": _public,
    }
    found = view.judged(result)
    split, evaluation = found if found else (None, None)
    splits, account = view.account_rows(result)
    per_label = view.weakest_first(evaluation) if evaluation else []
    card = {
        "front_matter": _front_matter(result, split, evaluation),
        "result": result,
        "recipe": view.shown_recipe(result),
        "id2label": dict(enumerate(result["labels"])) if result["labels"] else None,
        "split": split,
        "evaluation": evaluation,
        "verdict": folds.verdict_of(result),
        "limitations": view.limitations(result),
        "rows": view.comparison(result, evaluation) if evaluation else [],
        "yardsticks": view.computed(evaluation) if evaluation else [],
        "notes": [y for y in evaluation.get("yardsticks", []) if y["note"]] if evaluation else [],
        "per_label": per_label[:_PER_LABEL_ROWS],
        "left_out": max(0, len(per_label) - _PER_LABEL_ROWS),
        "splits": splits,
        "account": [(what, [_file_name(value) for value in values] if what == "File" else values) for what, values in account],
        "facts": [(what, _base_name(result) if what == "Base model" else value) for what, value in view.training_facts(result)],
        "kept": view.kept_rows(result),
        "update_header": changes.HEADER,
        "update_rows": changes.update_rows(result["update"]) if result.get("update") else [],
        "update_sentences": changes.update_sentences(result["update"]) if result.get("update") else [],
        "max_length": result["data"]["splits"]["train"]["account"]["max_length"],
        "truncation": result["data"]["splits"]["train"]["account"]["truncation"],
    }
    return environment.get_template("card.md.jinja").render(card).encode("utf-8", "replace").decode("utf-8")


def escaped(text: object) -> str:
    """Return `text` in one line with everything escaped that Markdown or HTML would take for markup."""
    line = wording.one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line)


def _file_name(value: str) -> str:
    return re.split(r"[/\\]", value)[-1]


def _public(value: str) -> str:
    """Return a setting with absolute paths, which name users and machines, reduced to file names."""
    return ", ".join(_file_name(part.rstrip("/\\")) if re.match(r"[/~\\]|[A-Za-z]:[/\\]", part) else part for part in value.split(", "))


def _hub_id(name: str) -> str | None:
    """Return `name` when it can be a model of the Hub (owner/name or name), None when it is a path."""
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) and not Path(name).exists() else None


def _base_name(result: view.Result) -> str:
    return result["base_model"] if _hub_id(result["base_model"]) else _file_name(result["base_model"].rstrip("/\\"))


def _front_matter(result: view.Result, split: str | None, evaluation: view.Evaluation | None) -> str:
    import yaml  # type: ignore[import-untyped]

    hub = result["hub"]
    matter: dict[str, Any] = {
        "tags": list(dict.fromkeys([hub["pipeline_tag"], "tunesmith", *hub["tags"]])),
        "pipeline_tag": hub["pipeline_tag"],
    }
    matter["library_name"] = "transformers" if result["loads_in_transformers"] else "tunesmith"
    if _hub_id(result["base_model"]):
        matter["base_model"] = result["base_model"]
    if evaluation:
        rows = [row for row in view.comparison(result, evaluation) if row["leading"] and wording.number(row["model"]) != wording.DASH]
        matter["metrics"] = list(dict.fromkeys(_hub_name(row["name"]) for row in rows))
        data = result["data"]["splits"].get(split)
        dataset = {
            "name": _file_name(data["file"]) if data else f"{split}",
            "type": "custom",
            "split": {"valid": "validation"}.get(str(split), split),
        }
        measured = [
            {
                "type": _hub_name(row["name"]),
                "value": _rounded(row["model"]),
                "name": row["title"],
            }
            for row in rows
        ]
        task = {"type": hub["pipeline_tag"], "name": hub["title"]}
        matter["model-index"] = [{"name": result["name"], "results": [{"task": task, "dataset": dataset, "metrics": measured}]}]
    return yaml.safe_dump(matter, allow_unicode=True, sort_keys=False, width=1000).rstrip("\n")


def _rounded(value: float) -> float:
    """Return `value` with four decimals, or four significant digits where that is more."""
    return round(value, 4) if abs(value) >= 0.1 else float(f"{value:.4g}")


def _hub_name(metric: str) -> str:
    return _HUB_NAMES.get(metric, re.sub(r"_(macro|micro|weighted)$", "", metric))
