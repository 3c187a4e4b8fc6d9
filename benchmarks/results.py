"""The numbers of docs/results.md: runs what is not recorded yet, then writes every table into its place, also those
that docs/recipes.md quotes.

Each section is one study of this folder. What a run gave is kept in benchmarks/measured/, one small file a run, so that
this goes on wherever it stopped, on any machine; with nothing to run it takes seconds. To measure anew, remove the
records. Seeds are independent of each other and run side by side, one thread each (`--jobs`, one a core).

    make results                                       # all sections; how long each takes is in docs/results.md
    make results ARGS="--sections recipes headline --jobs 2"
    make results ARGS="--recorded"                     # run nothing: the tables of what is recorded
    make results ARGS="--sections photos --photos clothes_bg.tar.gz"
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from _runs import spread

HERE = Path(__file__).parent
DOCUMENT, RECIPES, MEASURED = (
    HERE.parent / "docs" / "results.md",
    HERE.parent / "docs" / "recipes.md",
    HERE / "measured",
)
# One process, one thread: as many seeds side by side as there are cores, and the same sums wherever it runs.
COMMON = ["--set", "engine=local", "--set", "fit.num_threads=1"]
PAPER = ["--set", "dataset.bias=paper"]
HEADLINE = ["--recipes", "dbb", "jtt", "scgs+jtt", "--against", "jtt"]
LAST = ["--recipes", "dbb", "jtt", "--set", "algorithm.select=last", "--set", "controls=[flat,paste,shuffled]"]
AUTHORS = ["--recipes", "dbb", "--preset", "authors", "--set", "controls=[]", "--set", "unpruned=false"]


@dataclass(frozen=True)
class Section:
    """A study whose tables go into the document.

    Attributes:
        study: The script, without its ending.
        arguments: What it is given beside seeds and folders.
        out: Where its runs are, below runs/, and its records, below measured/.
        first: The first seed.
        seeds: How many.
        is_divisible: Seeds may run side by side.
    """

    study: str
    arguments: list[str]
    out: str
    first: int
    seeds: int
    is_divisible: bool = True

    def command(self, first: int, seeds: int) -> list[str]:
        """The study on some seeds."""
        folders = ["--out", f"runs/{self.out}", "--records", str(MEASURED / self.out)]
        seeds_given = ["--first", str(first), "--seeds", str(seeds)]
        return [sys.executable, str(HERE / f"{self.study}.py"), *folders, *seeds_given, *self.arguments, *COMMON]


# In the order of the document. Seeds from 10 on are in no choice that was made; 100 and more served to make some.
SECTIONS = {
    "scenes": Section("scenes", [], "scenes", 0, 5),
    "unbiased": Section("unbiased", [], "unbiased", 10, 3),
    "recipes": Section("effect", [], "effect", 10, 3),
    "headline": Section("effect", HEADLINE, "effect", 10, 10),
    "headline_paper": Section("effect", [*HEADLINE, *PAPER], "effect_paper", 10, 10),
    "last": Section("effect", [*LAST, "--reuse", "runs/effect"], "effect_last", 10, 10),
    "last_paper": Section("effect", [*LAST, *PAPER, "--reuse", "runs/effect_paper"], "effect_last_paper", 10, 10),
    "variance": Section("variance", [], "variance", 200, 5, is_divisible=False),
    "photos": Section("effect", [], "photos", 10, 3),
    "sources": Section("tokens", ["--sources", "none", "high_loss", "val_groups", "minority"], "tokens", 10, 3),
    "pruning": Section("pruning", [], "pruning", 100, 3),
    "pruning_paper": Section("pruning", PAPER, "pruning_paper", 100, 3),
    "authors": Section("effect", [*AUTHORS, "--reuse", "runs/effect"], "authors", 10, 3),
    "authors_paper": Section("effect", [*AUTHORS, *PAPER, "--reuse", "runs/effect_paper"], "authors_paper", 10, 3),
}


def main() -> None:
    """Runs what is missing, then writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--photos", type=Path, help="for the section of that name: see effect.py")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at the same time")
    parser.add_argument("--recorded", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    chosen = {name: SECTIONS[name] for name in arguments.sections}
    if "photos" in chosen:
        if arguments.photos is None and not arguments.recorded:
            print("photos: left out, since --photos is not given")
            del chosen["photos"]
        else:
            given = ["--photos", str(arguments.photos or "none")]
            chosen["photos"] = replace(chosen["photos"], arguments=given)
    failed = 0 if arguments.recorded else measure(chosen, jobs=arguments.jobs)
    for name, section in chosen.items():
        write(name, table(section))
    if "recipes" in chosen:
        quote(SECTIONS["recipes"])
    sys.exit(f"{failed} of the commands failed: what they said is in runs/*/results-*.log" if failed else 0)


def measure(sections: Mapping[str, Section], *, jobs: int) -> int:
    """Runs the sections' seeds, those that are recorded in no time; how many commands failed."""
    queues: dict[tuple[str, int], list[tuple[str, list[str]]]] = defaultdict(list)
    for name, section in sections.items():
        seeds = range(section.first, section.first + section.seeds)
        parts = [(seed, 1) for seed in seeds] if section.is_divisible else [(section.first, section.seeds)]
        for first, num in parts:
            # Sections that share a folder share the runs of a seed, and so take turns.
            queues[section.out, first].append((name, section.command(first, num)))

    def run(key: tuple[str, int]) -> int:
        out, first = key
        failed = 0
        for name, command in queues[key]:
            log = Path("runs", out, f"results-{name}-{first}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}, from seed {first}: {log}", flush=True)
            with log.open("w", encoding="utf-8") as file:
                # What is not a fit obeys this variable.
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                failed += (
                    subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode != 0
                )
        return failed

    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(run, queues))


def table(section: Section) -> str:
    """The study's tables of what is recorded, which it prints and nothing else."""
    command = [*section.command(section.first, section.seeds), "--recorded"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def write(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Puts a section's tables between its two marks; leaves what is there where there is nothing new."""
    begin, end = (f"<!-- made by `make results` ({name}): {side} -->" for side in ("begin", "end"))
    if not text:
        print(f"{name}: nothing is recorded")
        return
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{document} has no lines '{begin}' and '{end}'")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def quote(section: Section, document: Path = RECIPES) -> None:
    """Puts worst-group and average accuracy of each recipe into the last column of the table of recipes."""
    lines = document.read_text(encoding="utf-8").splitlines()
    head = next(
        number for number, line in enumerate(lines) if line.startswith("| recipe |") and line.endswith("| ours |")
    )
    for number in range(head + 2, len(lines)):
        if not lines[number].startswith("| `"):
            break
        before, _, _ = lines[number].removesuffix(" |").rpartition(" |")
        found = [accuracies(section, name) for name in re.findall(r"`([^`]+)`", before.split("|")[1])]
        lines[number] = f"{before} | {'; '.join(filter(None, found))} |"
    document.write_text("\n".join(lines) + "\n", encoding="utf-8")


def accuracies(section: Section, recipe: str) -> str:
    """ "worst / average" of a recipe over the seeds that are recorded; of ERM, those of any recipe's runs."""
    found = {}
    for seed in range(section.first, section.first + section.seeds):
        for path in sorted((MEASURED / section.out).glob(f"*_{seed}.json")):
            results = json.loads(path.read_text(encoding="utf-8"))["results"]
            if path.name == f"{recipe}_{seed}.json" or recipe == "erm":
                found[seed] = results[recipe]
    shares = [[100 * result[what] for result in found.values()] for what in ("worst_group", "average")]
    return " / ".join(map(spread, shares)) if found else ""


if __name__ == "__main__":
    main()
