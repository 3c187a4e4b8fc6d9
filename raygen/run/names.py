"""The recipes by name: a synthesis, or none, and an algorithm. Any algorithm goes with any synthesis."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from raygen.algorithms import ALGORITHMS
from raygen.inpainters.fills import CounterfactualValue, FactualValue
from raygen.run.published import published_presets
from raygen.synthesis import SYNTHESES

# Parts of a recipe's name that set a field of its algorithm: the field, its value where nothing else is given, and
# where the term comes from. The authors of CF/F name one value of the three, a weight of 10 of the saliency penalty,
# which is 2.5 of pixels in [0, 1]. Assumption: 0.2 as in mixup's paper, 0.1 as in label smoothing's.
TERMS = {
    "sal": ("saliency_penalty", 2.5, "saliency penalty (GradMask, Simpson et al. 2019, arXiv 1904.07478)"),
    "mixup": ("mixup_alpha", 0.2, "mixup (Zhang et al. 2018, arXiv 1710.09412)"),
    "ls": ("label_smoothing", 0.1, "label smoothing (Szegedy et al. 2016, arXiv 1512.00567)"),
}
# "cf(grey)", "f(shuffle)": the field of the synthesis infill, and its values.
VALUES = {"cf": ("counterfactual", get_args(CounterfactualValue)), "f": ("factual", get_args(FactualValue))}
_VALUE = re.compile(r"(cf|f)\(\s*(\w*)\s*\)")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named pair.

    Attributes:
        synthesis: Name of the synthesis, or None.
        algorithm: Name of the algorithm.
        paper: Where it comes from.
        label_access: Which labels of which split it reads, in the words of its parts.
        synthesis_fields: Fields of the synthesis that the name gives, and their values.
        algorithm_fields: Fields of the algorithm that the name asks for, and their values where no other is given.
    """

    synthesis: str | None
    algorithm: str
    paper: str
    synthesis_fields: Mapping[str, Any] = field(default_factory=dict)
    algorithm_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label_access(self) -> str:  # noqa: D102
        fit = ALGORITHMS[self.algorithm].Config.label_access
        if "saliency_penalty" in self.algorithm_fields:
            of_train, split, others = fit.partition("; ")
            fit = f"{of_train} and object masks{split}{others}"
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
    alone |= {term: Recipe(None, "erm", paper, {}, {name: value}) for term, (name, value, paper) in TERMS.items()}
    papers = {name: module.Config for name, module in SYNTHESES.items()}
    return alone | {name: Recipe(name, config.algorithm, config.paper) for name, config in papers.items()}


def listing() -> dict[str, list[dict[str, Any]]]:
    """Every named recipe, synthesis and algorithm as plain data, each with its paper and the labels that it reads.

    "recipes": name, synthesis (None: none), algorithm, paper, label_access. "syntheses": name, algorithm (of its own
    recipe), paper, label_access, presets (names). "algorithms": name, recipe_name (what it is called in a pair), paper,
    label_access. Algorithms are named as in a config, `algorithm.name`. "presets": name, of those that go with all.
    """
    return {
        "presets": [{"name": name} for name in published_presets()],
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
            {
                "name": name,
                "algorithm": config.algorithm,
                "paper": config.paper,
                "label_access": config.label_access,
                "presets": sorted(config.presets),
            }
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
    that is a recipe of its own, such as "scgs+erm", has that one's name. "cf(VALUE)+f(VALUE)", one or both, is the
    synthesis infill with these values, by ERM unless an algorithm is named too. "sal", "mixup" and "ls" add a term to
    the loss of whatever else is named.

    Raises:
        ValueError: There is no such recipe.
    """
    recipes, algorithms = known_recipes(), {recipe_name(algorithm): algorithm for algorithm in ALGORITHMS}
    parts = [part.strip() for part in name.split("+")] if isinstance(name, str) else []
    if any(part in TERMS or _VALUE.fullmatch(part) for part in parts):
        return _with_values_and_terms(parts, algorithms)
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


def _with_values_and_terms(parts: Sequence[str], algorithms: Mapping[str, str]) -> tuple[str, Recipe]:
    """The recipe of a name with values of infill or terms of the loss, such as "cf(inpaint)+f(shuffle)+sal"."""
    values = {match[1]: match[2] for part in parts if (match := _VALUE.fullmatch(part))}
    terms = [term for term in TERMS if term in parts]
    rest = [part for part in parts if part not in TERMS and not _VALUE.fullmatch(part)]
    if len(values) + len(terms) + len(rest) != len(parts):
        raise ValueError(f"recipe is '{'+'.join(parts)}', which names something twice; a value or a term goes once")
    for short, value in values.items():
        name, known = VALUES[short]
        if value not in known:
            raise ValueError(f"recipe has {short}({value}), but values of synthesis.{name} are {', '.join(known)}")
    papers = [TERMS[term][2] for term in terms]
    if values:
        if len(rest) > 1 or (rest and rest[0] not in algorithms):
            raise ValueError(
                f"recipe is '{'+'.join(parts)}'; beside cf(…), f(…) and {', '.join(TERMS)} it takes one algorithm: "
                f"{', '.join(sorted(algorithms))}"
            )
        algorithm = algorithms[rest[0]] if rest else "erm"
        written = [f"{short}({values[short]})" for short in VALUES if short in values]
        written += [] if algorithm == "erm" else [recipe_name(algorithm)]
        base = Recipe("infill", algorithm, " with ".join([SYNTHESES["infill"].Config.paper, *papers]))
        fields = {name: values.get(short) for short, (name, _) in VALUES.items()}
    else:
        found, base = find_recipe("+".join(rest) if rest else "erm")
        written, fields = [] if found == "erm" else [found], {}
        base = Recipe(base.synthesis, base.algorithm, " with ".join([*([base.paper] if written else []), *papers]))
    config = ALGORITHMS[base.algorithm].Config
    for term in terms:
        if (name := TERMS[term][0]) in config.without_terms:
            reason = "mixes pictures by itself"
        elif name not in config.model_fields:
            reason = "fits no network by the losses of pictures"
        else:
            continue
        raise ValueError(
            f"recipe is '{'+'.join(parts)}', but algorithm {base.algorithm} {reason} and has no {name} for it; leave "
            f"{term} out, or take another algorithm, such as erm or jtt"
        )
    of_loss = {TERMS[term][0]: TERMS[term][1] for term in terms}
    return "+".join([*written, *terms]), Recipe(base.synthesis, base.algorithm, base.paper, fields, of_loss)


def terms_of(fields: Mapping[str, Any]) -> list[str]:
    """Parts of a recipe's name for the terms that an algorithm's fields switch on."""
    return [term for term, (name, _, _) in TERMS.items() if fields.get(name)]
