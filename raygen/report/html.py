"""A finished run -> `report.html`: one self-contained page, with no script and no request to anywhere.

This file decides what the page says; `template.html.j2` and `style.css` decide how it looks. Jinja escapes every
value; only the SVG of `figures.py`, which escapes its own texts, is marked as markup.
"""

import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from raygen.datasets.rows import RowIndex
from raygen.report import collect, figures
from raygen.report.accuracies import group_noun, main_split, results
from raygen.report.attention import attention
from raygen.report.gallery import synthesis
from raygen.report.words import CLASS_GLOSSARY, GLOSSARY, GROUP_GLOSSARY, SYNTHESIS_GLOSSARY
from raygen.storage.run_folder import RunFolder
from raygen.storage.writing import write_text

_MINUTE_S, _HOUR_S = 60, 3600


def write_report(run: Path, *, seed_for_choice: int = 0) -> Path:
    """Writes `<run>/report.html`; gives back its path. The same run gives the same bytes.

    Args:
        run: Folder of a finished run.
        seed_for_choice: Moves the evenly spaced places at which pictures are picked.

    Raises:
        RaygenError: As `collect.summarize` does.
    """
    summary = collect.summarize(run)
    rows = RowIndex(run / "data")
    made = synthesis(run, rows, seed=seed_for_choice)
    context = {
        **_header(run, summary, rows),
        **results(summary, rows),
        **made,
        "glossary": (GROUP_GLOSSARY if group_noun(summary) == "group" else CLASS_GLOSSARY)
        + GLOSSARY
        + (SYNTHESIS_GLOSSARY if made["pruning"] else ()),
        **attention(run, summary, rows, seed=seed_for_choice),
        "times": times(summary["seconds"]),
        **_again(run),
        "versions": summary["versions"],
    }
    path = run / "report.html"
    write_text(path, render("template.html.j2", context))
    return path


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled in; a name that the context lacks is an error."""
    loader = jinja2.PackageLoader("raygen.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    style, _, _ = loader.get_source(environment, "style.css")
    return environment.get_template(template).render(style=Markup(style), **context)


def duration(seconds: float) -> str:
    """Seconds as text: "8.4 s", "3 min 05 s", "2 h 14 min"."""
    # Compared as rounded, so that nothing reads "60.0 s" or "60 min".
    if round(seconds, 1) < _MINUTE_S:
        return f"{seconds:.1f} s"
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _header(run: Path, summary: Mapping[str, Any], rows: RowIndex) -> dict[str, Any]:
    date = ""
    events = RunFolder(run).events()
    commands = [event for event in events if event["event"] == "command"]
    for event in (commands or events)[-1:]:
        date = datetime.datetime.fromtimestamp(event["time"], datetime.UTC).strftime("%d %B %Y, %H:%M UTC")
    noun, split, total = group_noun(summary), main_split(summary), sum(summary["seconds"].values())
    groups = [by_split[split]["groups"] for by_split in summary["results"].values() if split in by_split]
    facts = [f"seed {summary['seed']}", *([date.lstrip("0")] if date else [])]
    facts += [f"{duration(total)} of computing"] if total else []
    facts.append(f"{rows.table.num_rows:,} images, {rows.num_classes} classes")
    facts += [f"{len(groups[0])} groups"] if noun == "group" else []
    return {
        "title": f"{summary['recipe']} on {summary['dataset']}",
        "seed": summary["seed"],
        "facts": " · ".join(facts),
        "noun": noun,
    }


def times(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """A bar for each step's seconds."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return [{"name": step, "svg": figures.bar(s / longest, duration(s))} for step, s in seconds.items()]


def last_command(folder: Path) -> str:
    """The newest command line in the log of a run or a sweep; empty where there is none."""
    commands = [event.get("argv", "") for event in RunFolder(folder).events() if event["event"] == "command"]
    argv = commands[-1] if commands else ""
    return argv if isinstance(argv, str) else shlex.join(argv)


def _again(run: Path) -> dict[str, Any]:
    return {
        "command": last_command(run),
        "repeat_command": shlex.join(["raygen", "run", "--config", f"{run}/config.yaml", "--out", f"{run}-again"]),
        "config": (run / "config.yaml").read_text(encoding="utf-8"),
    }
