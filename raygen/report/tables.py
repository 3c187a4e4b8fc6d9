"""Tables for the terminal."""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from raygen.report import headline, measures
from raygen.report.measures import row_entry
from raygen.report.selection import selection_line
from raygen.report.words import NO_ATTRIBUTE, describe_point, noun_of

# More of them do not fit a terminal; the report has them all.
MAX_GROUP_COLUMNS = 6
MAX_FAILURE_LINES = 10
MAX_TRIALS = 12


def print_results(summary: Mapping[str, Any]) -> None:
    """Test accuracies of every result (validation where there is no test), and what became of the pictures.

    Args:
        summary: The content of `summary.json`, or a part of it with `results`.
    """
    console = _console()
    results = summary["results"]
    split = "test" if all("test" in splits for splits in results.values()) else "val"
    entries = {name: splits[split] for name, splits in results.items()}
    noun = noun_of([group for entry in entries.values() for group in entry["groups"]])
    groups = sorted({group["group"] for entry in entries.values() for group in entry["groups"]})
    shown = groups if len(groups) <= MAX_GROUP_COLUMNS else []
    letter, nouns = noun[0], {"group": "groups", "class": "classes"}[noun]
    named = f"worst {noun}: 95% interval; mean: over {nouns}; {letter}0, {letter}1 …: {nouns}"
    table = Table(title=f"{split} accuracy, % ({named})", box=box.SIMPLE_HEAD)  # lines would take a column of numbers
    # Where a table is too wide, a long name goes on in a second line: a number that is cut is another number.
    table.add_column("result", overflow="fold")
    for name in (f"worst {noun}", "mean", "avg.", *(f"{letter}{group}" for group in shown)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in entries.items():
        if name.startswith("unpruned_control_"):
            continue  # too wide, and too many: the page and summary.json have them
        low, high = found["worst_group_ci"]
        accuracy = {group["group"]: _percent(group["accuracy"]) for group in found["groups"]}
        worst = f"{_percent(found['worst_group'])} ({_percent(low)}-{_percent(high)})"
        cells = (worst, _percent(found["group_mean"]), _percent(found["average"]))
        table.add_row(name, *cells, *(accuracy.get(group, "") for group in shown))
    console.print(table)
    for line in headline.lines(summary, entries, noun=noun):
        console.print(line, soft_wrap=True)
    if noun == "class":
        console.print(f"  {NO_ATTRIBUTE}.", soft_wrap=True)
    if line := selection_line(summary):
        console.print(line, soft_wrap=True)
    _print_measures(console, entries, split=split)
    _print_pictures(console, summary)
    if summary.get("failures"):
        console.print(_failures_table(summary["failures"]))
    if summary.get("seconds"):
        total = sum(summary["seconds"].values())
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["seconds"].items())
        console.print(f"time: {total:.0f} s ({steps})", soft_wrap=True)


def _print_pictures(console: Console, summary: Mapping[str, Any]) -> None:
    """What became of the pictures; nothing where none were to be made."""
    counts = summary.get("synthesis")
    if not counts:
        return
    pruned = ", ".join(f"{n} by {reason}" for reason, n in counts["pruned"].items()) or "none"
    console.print(
        f"pictures: {counts['planned']} planned, {counts['generated']} generated, {counts['kept']} kept, "
        f"pruned {pruned}, {counts['failed']} failed",
        soft_wrap=True,
    )
    shares = summary.get("generated_share") or {}
    if (share := shares.get(summary["recipe"])) is not None:
        console.print(f"the kept pictures hold {share:.0%} of the loss of {summary['recipe']}", soft_wrap=True)
    if counts.get("mask_iou") is not None:
        console.print(f"object masks: mean IoU {counts['mask_iou']:.2f} with the dataset's own")


def _print_measures(console: Console, entries: Mapping[str, Mapping[str, Any]], *, split: str) -> None:
    """What the fits look at, with a line on each measure; nothing where nothing was measured."""
    names = measures.shown(entries.values())
    if names:
        table = Table(title=f"measures: {split}, %")
        table.add_column("result", overflow="fold")
        for name in names:
            table.add_column("\n".join(measures.MEASURES[name].title.split()), justify="right", no_wrap=True)
        for result, entry in entries.items():
            found = entry.get("measures", {})
            table.add_row(result, *(measures.text(name, found.get(name, {}).get("value")) for name in names))
        console.print(table)
    for title, text in measures.explained(entries.values()):
        console.print(f"  {title}: {text}", soft_wrap=True)
    for line in measures.absent(entries.values()):
        console.print(f"  {line}", soft_wrap=True)


def _failures_table(failures: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="rows that failed")
    for name in ("step", "rows", "reason"):
        table.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
    for failure in failures[:MAX_FAILURE_LINES]:
        table.add_row(failure["step"], str(failure["rows"]), failure["reason"])
    if others := failures[MAX_FAILURE_LINES:]:
        table.add_row("", str(sum(failure["rows"] for failure in others)), "other reasons; summary.json lists all")
    return table


def print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean and spread of test accuracies over runs, as `raygen.report.compare` gives them."""
    table = Table(title="test accuracy over runs, %: mean ± standard deviation")
    rows = [row for row in rows if row["split"] == "test"]
    entries = [row_entry(row) for row in rows]
    worst = " / ".join(dict.fromkeys(f"worst {row['noun']}" for row in rows)) or "worst group"
    for name in ("recipe", "result", "runs", worst, "mean", "average"):
        is_name = name in {"recipe", "result"}
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for row in rows:
        cells = [_spread(row[measure]) for measure in ("worst_group", "group_mean", "average")]
        table.add_row(row["recipe"], row["result"], str(row["num_runs"]), *cells)
    console = _console()
    console.print(table)
    named = [f"{row['recipe']}: {row['result']}" for row in rows]
    _print_measures(console, dict(zip(named, entries, strict=True)), split="test, means over runs")


def print_recipes(listing: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """What can be run, as `raygen.run.names.listing` gives it."""
    console = _console()
    for kind, first in (("recipes", "recipe"), ("syntheses", "synthesis"), ("algorithms", "algorithm")):
        table = Table(title=kind)
        table.add_column(first, no_wrap=True)
        for name in ("labels that it reads", "paper"):
            table.add_column(name, overflow="fold")
        for row in listing[kind]:
            # An algorithm has the name here that it has in a pair.
            table.add_row(row.get("recipe_name", row["name"]), row["label_access"], row["paper"])
        console.print(table)
    named = [f"{row['name']} --preset {preset}" for row in listing["syntheses"] for preset in row["presets"]]
    if named:
        console.print(f"Presets: {', '.join(named)}", soft_wrap=True)
    with_all = ", ".join(row["name"] for row in listing["presets"])
    console.print(f"Presets of published numbers, for any recipe: {with_all}", soft_wrap=True)
    console.print(
        "Any synthesis goes with any algorithm: raygen run SYNTHESIS+ALGORITHM, such as scgs+jtt", soft_wrap=True
    )


def print_trials(path: Path, summary: Mapping[str, Any]) -> None:
    """The best trials of a sweep by validation, with the standard error of the worst group, and the refit on test.

    Args:
        path: The sweep's `sweep.parquet`.
        summary: The content of its `summary.json`.
    """
    console, trials = _console(), pq.read_table(path).to_pylist()
    params = list(summary["best"]["params"])
    noun = noun_of([group for splits in summary["test"].values() for group in splits["test"]["groups"]])
    table = Table(title=f"validation accuracy, %: worst {noun} ± its standard error")
    for name in ("trial", f"worst {noun}", "average", "status", "parameters"):
        is_text = name in {"status", "parameters"}
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for trial in trials[:MAX_TRIALS]:
        accuracies = ["", ""]
        if trial["worst_group"] is not None:
            worst_text = f"{_percent(trial['worst_group'])} ± {_percent(trial['standard_error'])}"
            accuracies = [worst_text, _percent(trial["average"])]
        default = summary["default"] is not None and trial["name"] == summary["default"]["name"]
        point = describe_point({name: trial[name] for name in params})
        table.add_row(f"{trial['trial']}{' *' if default else ''}", *accuracies, trial["status"], point)
    console.print(table)
    if summary["default"] is not None:
        console.print("* the run's own config")
    if others := summary["num_alike"] - 1:
        console.print(f"{others} other complete trial(s) within one standard error of the best")
    worst = [splits["test"]["worst_group"] for splits in summary["test"].values()]
    spread = statistics.stdev(worst) if len(worst) > 1 else None
    console.print(
        f"test, the best trial refitted with {len(worst)} seed(s): worst {noun} "
        f"{_spread({'mean': statistics.fmean(worst), 'std': spread})} ({', '.join(map(_percent, worst))})",
        soft_wrap=True,
    )
    seconds = summary["seconds"]
    console.print("time: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; gives a function to be called with what is done and what there is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _spread(measure: Mapping[str, float | None]) -> str:
    mean, std = measure["mean"], measure["std"]
    assert mean is not None
    return _percent(mean) if std is None else f"{_percent(mean)} ± {_percent(std)}"


def print_checks(checks: Sequence[tuple[str, str, bool | None, str]]) -> None:
    """What `raygen doctor` found: name, value, whether it is well (None: with limits), advice."""
    table = Table(show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")  # a path or a variable is of use only as a whole
    for name, value, ok, advice in checks:
        table.add_row(
            {True: Text("ok", "green"), False: Text("no", "red"), None: Text("--", "yellow")}[ok], name, value, advice
        )
    _console().print(table)


def _console() -> Console:
    """Standard output, for text as it is: a name such as "[/b]" or ":bird:" means nothing to it."""
    return Console(markup=False, emoji=False)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
