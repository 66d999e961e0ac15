"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import counted
from tunesmith.report import changes, charts, folds, lr_find, study, view, wording
from tunesmith.storage import write_text

_MISTAKES = 30


def write_report(result: view.Result, directory: Path) -> Path:
    """Write ``report.html`` for a result into `directory` and return its path.

    Raises:
        StorageError: the file cannot be written.
    """
    path = directory / "report.html"
    # half of a surrogate pair, which a JSON file can hold, has no UTF-8
    write_text(path, render_html(result).encode("utf-8", "replace").decode("utf-8"))
    return path


def render_html(result: view.Result) -> str:
    """Return the report page of a result. All text of the result is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": wording.number,
        "figure": wording.figure,
        "count": wording.count,
        "counted": counted,
        "score": view.score,
        "precision": view.precision,
        "interval": wording.interval,
        "title_of": wording.title,
        "setting": wording.setting,
        "moment": wording.moment,
        "one_line": wording.one_line,
        "split_name": view.split_name,
        "unit": view.unit,
        "value_words": study.value_words,
        "has_share_right": view.has_share_right,
    }
    found = view.judged(result)
    split, evaluation = found if found else (None, None)
    training = result["training"]
    evaluations = [(point["step"], point["metrics"].get(result["metric"])) for point in training["evaluations"]]
    splits, account = view.account_rows(result)
    train_counts = result["data"]["splits"]["train"]["targets"]
    thresholds = dict(zip(result["labels"], result["thresholds"], strict=True)) if result["thresholds"] else {}
    page = {
        "result": result,
        "recipe": view.shown_recipe(result),
        "split": split,
        "evaluation": evaluation,
        "verdict": folds.verdict_of(result),
        "limitations": view.limitations(result),
        "train_counts": train_counts,
        "thresholds": thresholds,
        "few_rows": view.FEW_ROWS,
        "loss_curve": charts.curve(
            [(point["step"], point["loss"]) for point in training["history"]], "training loss", training["best_step"], raw=True
        ),
        "metric_curve": charts.curve(evaluations, f"validation {wording.title(result['metric'])}", training["best_step"]),
        "facts": view.training_facts(result),
        "splits": splits,
        "account": account,
        "tag_counts": view.tag_counts(result),
        "counted_things": view.counted_things(evaluation) if evaluation else "rows",
        "notes": [y for y in evaluation.get("yardsticks", []) if y["note"]] if evaluation else [],
        "kept": view.kept_rows(result),
        "update_header": changes.HEADER,
        "update_rows": changes.update_rows(result["update"]) if result.get("update") else [],
        "update_sentences": changes.update_sentences(result["update"]) if result.get("update") else [],
        "folds": folds.page(result["cross_validation"]) if "cross_validation" in result else None,
        "probe": lr_find.page(result["lr_find"]) if "lr_find" in result else None,
        "study": study.page(result["study"]) if "study" in result else None,
        "validation": result["evaluations"]["valid"] if split == "test" else None,
    }
    if evaluation:
        labels = result["labels"]
        page |= {
            "rows": view.comparison(result, evaluation),
            "yardsticks": view.computed(evaluation),
            "headline": view.headline(result, evaluation),
            "per_label": view.weakest_first(evaluation),
            "heat_map": charts.heat_map(evaluation["confusion"], labels) if evaluation["confusion"] else None,
            "numbered": len(labels) > view.MANY_LABELS,
            "pairs": view.confused_pairs(evaluation, labels),
            "reliability": charts.reliability(evaluation["calibration"]) if evaluation["calibration"] else None,
            "agreement": charts.agreement(evaluation["agreement"]) if evaluation.get("agreement") else None,
            "mistakes": sorted(evaluation["mistakes"], key=lambda mistake: -mistake["probability"])[:_MISTAKES],
        }
    return environment.get_template("report.html.jinja").render(page)
