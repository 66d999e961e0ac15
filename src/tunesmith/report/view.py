"""What the page, the card and the terminal say about a result, in one place so that they cannot disagree.

`Result` is the plain, JSON-able dict that a run ends with, `Evaluation` its part for one split; `tests/report/test_report.py`
builds one with every key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith import strategies
from tunesmith.errors import counted, listing
from tunesmith.metrics import METRICS
from tunesmith.report.wording import DASH, IN_UNITS, count, duration, figure, interval, number, setting, share, title

Result = dict[str, Any]
Evaluation = dict[str, Any]

FEW_ROWS = 10  # a label with fewer test rows has scores that mean little
MANY_LABELS = 25  # more than this do not fit a heat map with numbers
LEADING = (
    "f1_strict",
    "precision_strict",
    "recall_strict",
    "f1_default",
    "accuracy",
    "subset_accuracy",
    "f1_macro",
    "f1_micro",
    "matthews",
    "roc_auc",
    "lrap",
    *METRICS["qa"],
    "ece",
    "log_loss",
    *METRICS["regression"],
    *METRICS["masked-lm"],
    *METRICS["ranking"],
)
LOWER_IS_BETTER = ("ece", "log_loss", "loss", *(name for names in METRICS.values() for name, greater in names.items() if not greater))
_CONSTANTS = ("majority class", "mean")  # yardsticks that predict the same for every row
_WITHOUT_INTERVAL = ("roc_auc", "lrap", "ece", "log_loss", "loss")


def judged(result: Result) -> tuple[str, Evaluation] | None:
    """Return the split that the report is about and its evaluation: test, else validation, else None."""
    for split in ("test", "valid"):
        evaluation = result["evaluations"].get(split)
        if evaluation:
            return split, evaluation
    return None


def is_cross_validated(result: Result) -> bool:
    """Whether a cross-validation is the measure of the result, as there was no test besides."""
    return "cross_validation" in result and not result["evaluations"].get("test")


def unit(evaluation: Evaluation) -> str:
    """Return what the metrics are means over: rows, unless the task says otherwise."""
    found: str = evaluation.get("unit", "row")
    return found


def split_name(split: str) -> str:
    """Return the split's name for people."""
    return {"train": "training", "valid": "validation"}.get(split, split)


def comparison(result: Result, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per metric, the chosen one first: name, title, chosen, leading, model, interval, others.

    `others` has value and interval (both None where unknown) for each of the evaluation's yardsticks that was computed.
    """
    values = evaluation["metrics"]
    names = sorted(values, key=lambda name: (name != result["metric"], LEADING.index(name) if name in LEADING else len(LEADING)))
    return [
        {
            "name": name,
            "title": title(name),
            "chosen": name == result["metric"] and result["training"]["best_step"] is not None,
            # with one label per text, micro F1 is the accuracy
            "leading": name == result["metric"] or (name in LEADING and not (name == "f1_micro" and "accuracy" in values)),
            "lower": name in LOWER_IS_BETTER,
            "model": values[name],
            "interval": evaluation["intervals"].get(name),
            "others": [{"value": y["metrics"].get(name), "interval": y["intervals"].get(name)} for y in computed(evaluation)],
        }
        for name in names
    ]


def computed(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the yardsticks that have metrics, in order."""
    return [yardstick for yardstick in evaluation.get("yardsticks", []) if yardstick["metrics"]]


def headline(result: Result, evaluation: Evaluation) -> str:
    """Return the metric to speak of: the chosen one where it was computed, else accuracy or F1."""
    options = (result["metric"], "accuracy", "f1_macro", *evaluation["metrics"])
    return next(name for name in options if name in evaluation["metrics"])


def has_share_right(evaluation: Evaluation) -> bool:
    """Return whether an exact interval stands beside a share of rows that were predicted right."""
    return _share_right(evaluation) in evaluation["metrics"]


def _share_right(evaluation: Evaluation) -> str:
    """Return the name of the metric that is the share of rows predicted right, which always has an interval where there is one."""
    return next((name for name in ("accuracy", "exact_match") if name in evaluation["metrics"]), "subset_accuracy")


def verdict(result: Result) -> str:
    """Return one or two sentences: how good the model is, and whether it beats the best yardstick beyond chance."""
    found = judged(result)
    if not found:
        return "This model was not evaluated: there is neither a validation nor a test set."
    split, evaluation = found
    name = headline(result, evaluation)
    value, bounds = evaluation["metrics"][name], evaluation["intervals"].get(name)
    sentence = (
        f"{title(name)} {figure(name, value)} {interval(bounds, name)}".rstrip()
        + f" on {counted(evaluation['rows'], f'{split_name(split)} {unit(evaluation)}')}."
    )
    sign = -1 if name in LOWER_IS_BETTER else 1
    rivals = [y for y in computed(evaluation) if y["metrics"].get(name) is not None]
    if not rivals:
        return sentence
    best = max(rivals, key=lambda y: sign * y["metrics"][name])
    theirs, their_bounds = best["metrics"][name], best["intervals"].get(name)
    gain = sign * (value - theirs)
    said = f"the best yardstick, {best['name']}, at {figure(name, theirs)} {interval(their_bounds, name)}".rstrip()
    paired = evaluation.get("versus", {}).get(name) if best["name"] == "BM25" else None
    if paired is not None:
        return f"{sentence} {_paired(gain, said, paired['p'])}"
    judged_by, of = (bounds, their_bounds), ""
    if not (bounds and their_bounds) and name not in _WITHOUT_INTERVAL:
        # one of them was right on all rows or on none, which leaves the share of right rows to judge by
        exact = _share_right(evaluation)
        judged_by, of = (evaluation["intervals"].get(exact), best["intervals"].get(exact)), f" of {title(exact).lower()}"
    known = all(judged_by)
    overlap = known and max(pair[0] for pair in judged_by) <= min(pair[1] for pair in judged_by)
    if gain < -0.1 * (abs(theirs) if name in IN_UNITS else 1) or (gain < 0 and known and not overlap and not of):
        doubt = f", though the 95% intervals{of} overlap" if overlap else ""
        return f"{sentence} It is worse than {said}{doubt}: on these rows the simple method is better."
    if gain <= 0:
        return f"{sentence} It is no better than {said}: for these data the simple method does as well."
    if overlap:
        return f"{sentence} It is ahead of {said}, but the 95% intervals{of} overlap: more test rows would show whether the lead is real."
    return f"{sentence} It beats {said}" + (f"; the 95% intervals{of} do not overlap." if known else ".")


def _paired(gain: float, said: str, p: float) -> str:
    """Return what a paired test says of a model that is `gain` ahead of the yardstick `said`."""
    test = f"paired randomization test, p = {p:.2g}"
    if p >= 0.05:
        return f"It cannot be told apart from {said} ({test}): more test queries would show whether there is a difference."
    if gain > 0:
        return f"It beats {said} ({test})."
    return f"It is worse than {said} ({test}): on these queries the simple method is better."


def limitations(result: Result) -> list[str]:
    """Return what the evaluation and the data account show to be weak or unknown, one sentence or two each."""
    said = []
    found = judged(result)
    if is_cross_validated(result):
        said.append(
            "The model was trained on all rows after the cross-validation, and no rows are left that could test it alone: what the folds "
            "reach is what to expect of it." + (" Figures of validation rows, which chose its checkpoint, are optimistic." if found else "")
        )
        found = None
    if found and found[0] == "valid":
        said.append(
            "There is no test set. The figures are those of the validation set, which were also used to choose the checkpoint, "
            "so they are optimistic. Hold back labelled rows as a test set to know better."
        )
    if found:
        said += _measured(result, *found)
    cut, limits = [], {}
    for split, part in result["data"]["splits"].items():
        if part and (account := part["account"])["rows_truncated"] > 0.01 * account["rows_used"]:
            rows, tokens = share(account["rows_truncated"], account["rows_used"]), share(account["tokens_lost"], account["tokens_read"])
            limits = account  # one truncation holds for all parts
            cut.append(f"{rows} of the {split_name(split)} rows ({tokens} of the tokens lost)")
    if cut:
        said.append(f"Texts over {count(limits['max_length'])} tokens were cut ({setting(limits['truncation'])}): {', '.join(cut)}.")
    return said + list(result["data"]["notes"])


def _measured(result: Result, split: str, evaluation: Evaluation) -> list[str]:
    said = []
    name = headline(result, evaluation)
    bounds = evaluation["intervals"].get(name)
    rows, exact = counted(evaluation["rows"], unit(evaluation)), _share_right(evaluation)
    few = f"{rows} {'is' if evaluation['rows'] == 1 else 'are'} few"
    right, exact_bounds = evaluation["metrics"].get(exact), evaluation["intervals"].get(exact)
    if right in (0, 1) and exact_bounds and exact_bounds[1] - exact_bounds[0] > 0.1:
        # the bootstrap is blind here: it can only draw rows like those that were seen
        found = f"no mistake in {rows}" if right else f"none of {rows} right"
        limit = f"low as {number(exact_bounds[0], 2)}" if right else f"high as {number(exact_bounds[1], 2)}"
        said.append(f"{few}: even with {found}, {title(exact).lower()} may be as {limit} (95% interval).")
    elif bounds and bounds[1] - bounds[0] > (0.5 * evaluation["metrics"][name] if name in IN_UNITS else 0.1):
        said.append(f"{few}: {title(name)} may lie anywhere in {interval(bounds, name)} (95% interval).")
    elif not bounds and name not in _WITHOUT_INTERVAL and evaluation["rows"] < FEW_ROWS:
        said.append(f"{few}, too few to say how far off {title(name)} may be.")
    rare = [row["label"] for row in evaluation["per_label"] if row["support"] < FEW_ROWS]
    if rare:
        said.append(
            f"{len(rare)} of {len(evaluation['per_label'])} labels have fewer than {FEW_ROWS} {split_name(split)} "
            f"{counted_things(evaluation)}, "
            f"too few to judge: {listing(rare, 8)}."
        )
    weak = sorted((row for row in evaluation["per_label"] if row["support"] >= FEW_ROWS and row["f1"] < 0.5), key=lambda row: row["f1"])
    if weak:
        said.append("F1 is below 0.5 for " + listing([f"{row['label']} ({number(row['f1'], 2)})" for row in weak], 8) + ".")
    said += _no_better_than_a_constant(evaluation)
    error = evaluation["metrics"].get("ece")
    if error is not None and error > 0.05:
        lean = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in evaluation["calibration"])
        said.append(
            f"Probabilities are too {'high' if lean > 0 else 'low'}: they miss the observed frequency by {number(error)} on average (ECE)."
        )
    return said


def _no_better_than_a_constant(evaluation: Evaluation) -> list[str]:
    """Say so when a yardstick that predicts the same for every row is right as often, or as near."""
    for yardstick in computed(evaluation):
        for name, words in (("accuracy", "is right no more often"), ("mse", "has no smaller squared error")):
            ours, theirs = evaluation["metrics"].get(name), yardstick["metrics"].get(name)
            if yardstick["name"] not in _CONSTANTS or ours is None or theirs is None:
                continue
            if (ours <= theirs) if name == "accuracy" else (ours >= theirs):
                return [f"The model {words} than a guess that is the same for every row ({yardstick['name']}): it has learned nothing."]
    return []


def kept_rows(result: Result) -> str:
    """Return what is to be said of rows of the data that lie in the model directory; empty where there are none."""
    kept = result.get("kept")
    if not kept or not (kept["replay"] or kept["test"]):
        return ""
    parts = [
        f"{kept[name]:,} of {counted(kept[of], f'{words} row')}"
        for name, of, words in (("replay", "of", "training"), ("test", "test_of", "test"))
        if kept[name]
    ]
    return (
        f"Rows of the data lie in the model directory as they were given (kept/, {kept['bytes'] / 1e6:.2g} MB): {' and '.join(parts)}, "
        "which updates go on from. Delete kept/ before you give the model to anyone who may not read them."
    )


def confused_pairs(evaluation: Evaluation, labels: Sequence[str], limit: int = 15) -> list[dict[str, Any]]:
    """Return the most frequent mistakes: gold, predicted, count and the share of the gold label's rows."""
    matrix = evaluation["confusion"] or []
    pairs = [
        {"gold": labels[i], "predicted": labels[j], "count": cell, "share": share(cell, sum(row))}
        for i, row in enumerate(matrix)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:limit]


def split_off(result: Result, split: str) -> str:
    """Return how many training rows became other splits, as " (7 + 7 split off)"; nothing where none did."""
    others = [part["rows"] for part in result["data"]["splits"].values() if part and part["how"] != "given"]
    return f" ({' + '.join(map(count, others))} split off)" if split == "train" and others else ""


def counted_things(evaluation: Evaluation) -> str:
    """Return what the support of a label counts: rows, or the words or entities in them."""
    return str(evaluation.get("counted", "rows"))


def tag_counts(result: Result) -> list[tuple[str, list[str]]]:
    """Return (tag, words with it in each split) of a model that tags words, the most frequent in training first; none of another."""
    if result["kind"] not in ("spans", "tags"):
        return []
    splits = [part["targets"] for part in result["data"]["splits"].values() if part]
    tags = sorted(result["labels"], key=lambda tag: -splits[0].get(tag, 0))
    return [(tag, [count(targets.get(tag, 0)) for targets in splits]) for tag in tags]


def score(value: float, row: dict[str, Any]) -> str:
    """Return a score of a label as `number` does; a dash where no row has the label, so that there was nothing to score."""
    return number(value) if row["support"] else DASH


def _peak_memory(training: dict[str, Any]) -> str:
    on_gpu = training.get("peak_gpu_memory_mb")
    return f"{count(training['peak_memory_mb'])} MB" + (f", and {count(on_gpu)} MB of the GPU's" if on_gpu is not None else "")


def _computer(machine: dict[str, Any]) -> str:
    """Return what computed: a GPU, or the processor with its threads."""
    device = machine.get("device", machine["cpu"])  # models of earlier versions know of processors only
    return device if device != machine["cpu"] else f"{device}, {counted(machine['threads'], 'thread')}"


def precision(row: dict[str, Any]) -> str:
    """Return a label's precision as `number` does; a dash where it was never predicted, so that there was nothing to score."""
    return number(row["precision"]) if row.get("predicted", 1) else DASH


def weakest_first(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the labels' scores by rising F1, labels without a row to score at the end."""
    return sorted(evaluation["per_label"], key=lambda row: (not row["support"], row["f1"]))


def account_rows(result: Result) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the splits' names and the data account as (what, one value per split) rows; rows of zeros only are left out."""
    splits = {name: part for name, part in result["data"]["splits"].items() if part}
    accounts = [part["account"] for part in splits.values()]
    rows = [("File", [part["file"] for part in splits.values()]), ("Origin", [part["how"] for part in splits.values()])]
    rows.append(("Rows read", [count(a["rows_read"]) for a in accounts]))
    for key, what in (
        ("dropped_empty", "Dropped: empty text"),
        ("dropped_unlabelled", "Dropped: no label"),
        ("dropped_duplicates", "Dropped: duplicate"),
        ("duplicates_found", "Duplicates found"),
    ):
        if any(a[key] for a in accounts):
            rows.append((what, [count(a[key]) for a in accounts]))
    rows.append(("Rows used", [count(part["account"]["rows_used"]) + split_off(result, name) for name, part in splits.items()]))
    if all("words" in a for a in accounts):
        rows.append(("Words", [count(a["words"]) for a in accounts]))
    if result["kind"] == "qa":
        for what in splits["train"]["targets"]:
            rows.append((f"Questions {what}", [count(part["targets"].get(what, 0)) for part in splits.values()]))
    rows.append(("Sequences", [count(a["windows"]) for a in accounts]))
    rows.append(("Tokens", [count(a["tokens_read"]) for a in accounts]))
    rows.append(("Longest sequence allowed", [f"{count(a['max_length'])} tokens" for a in accounts]))
    rows.append(("Rows truncated", [f"{count(a['rows_truncated'])} ({share(a['rows_truncated'], a['rows_used'])})" for a in accounts]))
    rows.append(("Tokens lost", [f"{count(a['tokens_lost'])} ({share(a['tokens_lost'], a['tokens_read'])})" for a in accounts]))
    return list(splits), rows


def shown_recipe(result: Result) -> dict[str, Any]:
    """Return the settings that mean something for the way the model was tuned."""
    idle = strategies.meaningless(result["recipe"].get("tuning", "full"))
    return {name: value for name, value in result["recipe"].items() if name not in idle}


def regularisation(recipe: Mapping[str, Any]) -> str:
    """Return what is in use beside dropout and weight decay, with its strength and source; empty when nothing is."""
    words = {
        "label_smoothing": "label smoothing {:g} (Szegedy et al. 2016)",
        "r_drop": "R-Drop {:g} (Liang et al. 2021)",
        "fgm": "adversarial noise (FGM) {:g} (Miyato et al. 2017)",
        "multi_sample_dropout": "{} dropout masks before the last layer (Inoue 2019)",
        "ema": "moving average of the weights, decay {:g} (Polyak and Juditsky 1992)",
        "average": "mean of the weights at the last {} evaluations (Izmailov et al. 2018)",
    }
    idle = {"multi_sample_dropout": 1, "average": 1}
    used = [name for name in words if recipe.get(name, idle.get(name, 0)) != idle.get(name, 0)]
    return "; ".join(words[name].format(recipe[name]) for name in used)


def _way(record: dict[str, Any]) -> str:
    """Return in a few words what a way to tune reached, or why it was left out."""
    if "why" in record:
        return f"{record['way']} left out: {record['why']}"
    reached = f"{title(record['metric'])} {figure(record['metric'], record['value'])}"
    return f"{record['way']}: validation {reached} in {duration(record['seconds'])}"


def training_facts(result: Result) -> list[tuple[str, str]]:
    """Return (what, value) pairs about the training and the machine."""
    training, machine = result["training"], result["machine"]
    trained, parameters = training["trained_parameters"], training["parameters"]
    return [
        ("Base model", result["base_model"]),
        *([("Pooling", result["pooling"])] if result.get("head", "sequence-classification") == "sequence-classification" else []),
        (
            "Tuning",
            result["recipe"].get("tuning", "full") + "; ".join(["", *filter(None, [training.get("tuning"), training.get("frozen")])]),
        ),
        *([("Ways tried", "; ".join(map(_way, result["ways"])))] if "ways" in result else []),
        ("Parameters trained", f"{count(trained)} of {count(parameters)} ({share(trained, parameters)})"),
        *([("Regularisation", regularisers)] if (regularisers := regularisation(result["recipe"])) else []),
        ("Epochs", f"{training['epochs']:g}"),
        ("Steps", count(training["steps"])),
        ("Stopped", training["stopped"]),
        (
            "Checkpoint chosen",
            "the last" if training["best_step"] is None else f"step {count(training['best_step'])} by {title(result['metric'])}",
        ),
        ("Time", duration(training["seconds"])),
        ("Speed", f"{count(training['tokens_per_s'])} tokens/s ({count(training['tokens'])} tokens)"),
        ("Peak memory", _peak_memory(training)),
        *((name.capitalize(), words) for name, words in training.get("road", {}).items()),
        (
            "Machine",
            f"{_computer(machine)}, {machine['precision']}" + (f"; {machine['note']}" if machine["note"] else ""),
        ),
    ]
