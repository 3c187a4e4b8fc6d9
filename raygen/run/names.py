"""The recipes by name: a synthesis, or none, and an algorithm. Any algorithm goes with any synthesis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named pair.

    Attributes:
        synthesis: Name of the synthesis, or None.
        algorithm: Name of the algorithm.
        paper: Where it comes from.
    """

    synthesis: str | None
    algorithm: str
    paper: str


RECIPES = {
    "erm": Recipe(None, "erm", "empirical risk minimization"),
    "erm_reweighted": Recipe(None, "reweighted", "group-reweighted ERM (Sagawa et al. 2020, arXiv 1911.08731)"),
    "group_dro": Recipe(None, "group_dro", "group DRO (Sagawa et al. 2020, arXiv 1911.08731)"),
    "jtt": Recipe(None, "jtt", "JTT (Liu et al. 2021, arXiv 2107.09044)"),
    "dfr": Recipe(None, "dfr", "DFR (Kirichenko et al. 2022, arXiv 2204.02937)"),
    "scgs": Recipe("scgs", "erm", "SCGS (Li et al., arXiv 2412.19457)"),
    "dbb": Recipe("dbb", "balanced", "DBB (Yazdan Parast et al., arXiv 2503.17226)"),
}
# Name of an algorithm in a recipe's name -> its name in a config. `balanced` is no recipe of its own: without generated
# pictures it is ERM.
ALGORITHM_NAMES = {
    **{name: recipe.algorithm for name, recipe in RECIPES.items() if recipe.synthesis is None},
    "balanced": "balanced",
}


def find_recipe(name: object) -> tuple[str, Recipe]:
    """A recipe and the name that it has in files, from any name that means it.

    "SYNTHESIS+ALGORITHM" in either order, such as "scgs+jtt" or "jtt+scgs"; in files the synthesis comes first. A pair
    that is a recipe of its own, such as "scgs+erm", has that one's name.

    Raises:
        ValueError: There is no such recipe.
    """
    parts = [part.strip() for part in name.split("+")] if isinstance(name, str) else []
    if len(parts) == 1 and parts[0] in RECIPES:
        return parts[0], RECIPES[parts[0]]
    if len(parts) == 2:
        synthesis, algorithm = sorted(parts, key=lambda part: part in ALGORITHM_NAMES)
        first = RECIPES.get(synthesis)
        if first is not None and first.synthesis is not None and algorithm in ALGORITHM_NAMES:
            second = ALGORITHM_NAMES[algorithm]
            if second == first.algorithm:
                return synthesis, first
            papers = f"{first.paper} with {RECIPES['dbb' if second == 'balanced' else algorithm].paper}"
            return f"{synthesis}+{algorithm}", Recipe(first.synthesis, second, papers)
    syntheses = [known for known, recipe in RECIPES.items() if recipe.synthesis is not None]
    raise ValueError(
        f"recipe is {name!r}; known: {', '.join(sorted(RECIPES))}, and pairs SYNTHESIS+ALGORITHM of "
        f"{' or '.join(sorted(syntheses))} with {', '.join(sorted(ALGORITHM_NAMES))}, such as scgs+jtt"
    )
