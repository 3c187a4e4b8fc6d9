"""What a recipe's spread over seeds comes from: its fits, its pictures, or the dataset with all that follows from it.

Three sets of runs of `dbb` on the scenes, each of which draws one thing anew and keeps the rest:

    fit       fits, on one pool of pictures              (`fit_seed`)
    pictures  pictures and fits' training sets, by one ERM on one dataset (`picture_seed`)
    all       everything: dataset, ERM, pictures, fits   (`seed`)

The standard deviations say how much of the third is in the first two. Each is of few runs and so rough; its 95%
interval (chi-squared, so for values that are about normal) stands beside it. An interrupted study goes on where it
stopped.

    python benchmarks/variance.py --set fit.num_threads=1 --set pools.inpainter.actors=1
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import scipy.stats
from _records import Record, add_arguments, record, recorded_run, records_of, seeds_of
from _runs import run, spread

FIRST = 200  # the seed of what is kept
IMAGES_PER_CLASS = 500  # those of `raygen demo`
SOURCES = {"fit": "fit_seed", "pictures": "picture_seed", "all": "seed"}


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="variance", first=FIRST, seeds=5)
    arguments = parser.parse_args()
    found = {source: drawn(source, arguments) for source in SOURCES}
    text = table({source: records for source, records in found.items() if records})
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "variance.md").write_text(text, encoding="utf-8")
    print(text)


def drawn(source: str, arguments: argparse.Namespace) -> list[Record]:
    """The runs that draw one thing anew; the first seed is that of what is kept, so that the first run is in all."""
    common = [f"synthesis.k={IMAGES_PER_CLASS}", "unpruned=true", "controls=[]", *arguments.overrides]
    records = []
    for seed in seeds_of(arguments):
        settings = [*common, f"seed={seed if source == 'all' else FIRST}"]
        if source != "all":
            settings.append(f"{SOURCES[source]}={seed}")
        folder = arguments.out / f"{source}_{seed}"

        def make(folder: Path = folder, settings: Sequence[str] = settings) -> Record:
            same = [path for path in sorted(arguments.out.glob("*_*")) if path.is_dir() and path != folder]
            return record(folder, run(["dbb", "--dataset", "scenes"], folder, settings=settings, reuse=same))

        path = records_of(arguments) / f"{source}_{seed}.json"
        if found := recorded_run(path, settings, make, recorded=arguments.recorded):
            records.append(found)
    return records


def table(found: Mapping[str, Sequence[Record]]) -> str:
    """Markdown: standard deviation of each result's worst group and average, by what was drawn anew."""
    lines = [
        "| drawn anew | result | runs | worst-group accuracy, % | its standard deviation | average accuracy, % |",
        "|---|---|---|---|---|---|",
    ]
    for source, records in found.items():
        for result in [name for name in records[0].results if name != "erm" or source == "all"]:
            own = [one.results[result] for one in records]
            worst, average = [100 * one.worst_group for one in own], [100 * one.average for one in own]
            if len(own) < 2:
                continue
            low, high = deviation_interval(worst)
            cells = [
                source,
                result,
                f"{len(worst)}",
                spread(worst),
                f"{statistics.stdev(worst):.1f} ({low:.1f} to {high:.1f})",
            ]
            lines.append(f"| {' | '.join([*cells, spread(average)])} |")
    return "\n".join([*lines, ""])


def deviation_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the standard deviation of values that are normal: (n - 1) s^2 / sigma^2 is chi-squared."""
    freedom = len(values) - 1
    low, high = (
        math.sqrt(freedom * statistics.variance(values) / scipy.stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025)
    )
    return low, high


if __name__ == "__main__":
    main()
