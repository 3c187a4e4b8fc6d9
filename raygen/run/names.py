"""The recipes by name: a synthesis, or none, and an algorithm. Any algorithm goes with any synthesis."""

from dataclasses import dataclass
from typing import Any, Literal

from raygen.algorithms import ALGORITHMS
from raygen.synthesis import SYNTHESES


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named pair.

    Attributes:
        synthesis: Name of the synthesis, or None.
        algorithm: Name of the algorithm.
        paper: Where it comes from.
        label_access: Which labels of which split it reads, in the words of its parts.
    """

    synthesis: str | None
    algorithm: str
    paper: str

    @property
    def label_access(self) -> str:  # noqa: D102
        fit = ALGORITHMS[self.algorithm].Config.label_access
        if self.synthesis is None:
            return fit
        chosen = SYNTHESES[self.synthesis].Config.label_access
        # What a fit reads anyway need not be said twice.
        return fit if chosen in fit else f"{fit} (to generate: {chosen})"

    @property
    def needs_groups_of(self) -> Literal["train", "val"] | None:
        """The split whose images must all have an attribute; None: neither."""
        return ALGORITHMS[self.algorithm].Config.needs_groups_of


def known_recipes() -> dict[str, Recipe]:
    """The recipes that have a name of their own: each algorithm that is one by itself, and each paper's synthesis."""
    alone = {
        recipe_name(name): Recipe(None, name, module.Config.paper)
        for name, module in ALGORITHMS.items()
        if module.Config.is_recipe
    }
    papers = {name: module.Config for name, module in SYNTHESES.items()}
    return alone | {name: Recipe(name, config.algorithm, config.paper) for name, config in papers.items()}


def listing() -> dict[str, list[dict[str, Any]]]:
    """Every named recipe, synthesis and algorithm as plain data, each with its paper and the labels that it reads.

    "recipes": name, synthesis (None: none), algorithm, paper, label_access. "syntheses": name, algorithm (of its own
    recipe), paper, label_access. "algorithms": name, recipe_name (what it is called in a pair), paper, label_access.
    Algorithms are named as in a config, `algorithm.name`.
    """
    return {
        "recipes": [
            {
                "name": name,
                "synthesis": recipe.synthesis,
                "algorithm": recipe.algorithm,
                "paper": recipe.paper,
                "label_access": recipe.label_access,
            }
            for name, recipe in sorted(known_recipes().items())
        ],
        "syntheses": [
            {"name": name, "algorithm": config.algorithm, "paper": config.paper, "label_access": config.label_access}
            for name, config in ((name, SYNTHESES[name].Config) for name in sorted(SYNTHESES))
        ],
        "algorithms": [
            {
                "name": name,
                "recipe_name": recipe_name(name),
                "paper": module.Config.paper,
                "label_access": module.Config.label_access,
            }
            for name, module in sorted(ALGORITHMS.items())
        ],
    }


def recipe_name(algorithm: str) -> str:
    """What an algorithm is called in a recipe's name; a name that is none stays as it is."""
    module = ALGORITHMS.get(algorithm)
    return algorithm if module is None else module.Config.recipe_name or algorithm


def find_recipe(name: object) -> tuple[str, Recipe]:
    """A recipe and the name that it has in files, from any name that means it.

    "SYNTHESIS+ALGORITHM" in either order, such as "scgs+jtt" or "jtt+scgs"; in files the synthesis comes first. A pair
    that is a recipe of its own, such as "scgs+erm", has that one's name.

    Raises:
        ValueError: There is no such recipe.
    """
    recipes, algorithms = known_recipes(), {recipe_name(algorithm): algorithm for algorithm in ALGORITHMS}
    parts = [part.strip() for part in name.split("+")] if isinstance(name, str) else []
    if len(parts) == 1 and parts[0] in recipes:
        return parts[0], recipes[parts[0]]
    if len(parts) == 2:
        synthesis, algorithm = sorted(parts, key=lambda part: part in algorithms)
        if synthesis in SYNTHESES and algorithm in algorithms:
            own, second = recipes[synthesis], algorithms[algorithm]
            if second == own.algorithm:
                return synthesis, own
            papers = f"{own.paper} with {ALGORITHMS[second].Config.paper}"
            return f"{synthesis}+{algorithm}", Recipe(synthesis, second, papers)
    raise ValueError(
        f"recipe is {name!r}; known: {', '.join(sorted(recipes))}, and pairs SYNTHESIS+ALGORITHM of "
        f"{' or '.join(sorted(SYNTHESES))} with {', '.join(sorted(algorithms))}, such as scgs+jtt"
    )
