"""The fixed sentences of the page: what results, reasons and terms mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from raygen.synthesis.controls import ControlKind

PSI, RHO = "\N{GREEK SMALL LETTER PSI}", "\N{GREEK SMALL LETTER RHO}"

GROUP_GLOSSARY = (
    ("group", "Images with one class and one spurious attribute, such as waterbirds on land."),
    (
        "worst-group accuracy",
        "The lowest accuracy over the groups that occur, whichever group it is (Sagawa et al. 2020).",
    ),
    (
        "mean over groups",
        "The unweighted mean of the groups' accuracies. A classifier that knows nothing has 1/C of C classes there, "
        "and its worst group may be far better than that of one which reads the wrong cue.",
    ),
    ("average", "Share of all images of the split that are right."),
    (
        "adjusted average",
        "Group accuracies averaged with the training split's group shares, as papers on Waterbirds report it.",
    ),
)
GLOSSARY = (
    (
        "interval",
        "95%: what the number of test images leaves open. Of a single accuracy Wilson's; of the worst one, whichever "
        "it is, and of the mean, made of exact ones that hold together. It does not cover other seeds.",
    ),
    ("erm", "Empirical risk minimisation: plain training on the data as they are."),
)

# In place of the first three where no attribute is known: then nothing is called a group.
CLASS_GLOSSARY = (
    (
        "worst-class accuracy",
        "The lowest accuracy over the classes. No attribute is known, so a group inside of a class, such as its images "
        "with an unusual background, may be worse unseen.",
    ),
    ("mean over classes", "The unweighted mean of the classes' accuracies: 1/C where nothing is known of C classes."),
    ("average", "Share of all images of the split that are right."),
)

# Said where no attribute is known.
NO_ATTRIBUTE = "No attribute is known, so a group inside of a class may be worse unseen"

SYNTHESIS_GLOSSARY = (
    ("repaint mask", "The pixels that are made anew, by a model or a fill; all others stay as they were."),
    (
        "source, target",
        "The class of the original picture, and the class to be generated, which becomes the new picture's label.",
    ),
    (
        f"{PSI} (psi)",
        "How probable the source class still is to the erm classifier on the generated picture. "
        "\N{GREEK CAPITAL LETTER PSI} is the threshold per source class.",
    ),
    (
        f"{RHO} (rho)",
        "How far the repainted pixels raise the target's logit (integrated gradients inside the mask). "
        "P is the threshold per target class.",
    ),
    ("kept, pruned, failed", f"Kept for training; left out because of {PSI} or {RHO}; could not be generated."),
    (
        "controls",
        "The same fit with as many extra rows in place of the recipe's pictures: copies, grey holes, flat colours, "
        "pasted objects, the pictures under labels that say nothing of them, real images of the rarest groups.",
    ),
    ("heat map", "Grad-CAM for the class that the classifier predicts: bright regions spoke for that answer."),
)

REASONS = {
    "source_probability": f"source class still seen ({PSI})",
    "attribution_inside": f"target not seen in the mask ({RHO})",
    "source_probability+attribution_inside": f"both ({PSI} and {RHO})",
}

CONTROL_WORDS: Mapping[ControlKind, str] = {
    "duplicate": "plain copies instead of generated pictures",
    "hole": "repaint region left grey, target label",
    "flat": "repaint region in one random object colour, target label",
    "paste": "a real object of the target class pasted where the old one was",
    "shuffled": "the generated pictures, their labels exchanged among them",
    "reweight": "real images of the target class's rarest group, as many times",
}

# Said beside the numbers where the shipped model painted.
TINY_PAINTER = (
    "The pictures were painted by the tiny model that ships with raygen. It was trained on 24,000 captioned scenes of "
    "the benchmark\N{RIGHT SINGLE QUOTATION MARK}s own renderer, all four groups equally often, and the tiny CLIPSeg "
    "on true masks of such scenes. No test image leaks, but the unbiased distribution does: these numbers test the "
    "pipeline, and say nothing of what Stable Diffusion can do."
)

# What an algorithm needs beside images and labels, by the split whose groups it reads.
NEEDS = {
    None: "",
    "train": "; needs the group labels of training images",
    "val": "; needs the group labels of validation images, which it fits on: compare on test",
}


def painter_note(model_ids: Sequence[str]) -> str:
    """What has to be known of the models that painted, to read the numbers; empty where there is nothing."""
    return TINY_PAINTER if "tiny" in model_ids else ""


def noun_of(groups: Sequence[Mapping[str, Any]]) -> str:
    """What the groups of a result are: "group", or "class" where no attribute is known."""
    return "group" if any(group["attribute"] is not None for group in groups) else "class"


def describe_result(name: str, recipe: str) -> str:
    """What a result is, in half a sentence; empty for names that are not of raygen's own making."""
    fixed = {
        recipe: "the recipe" + _needs(recipe),
        "erm": "plain training on the data as they are",
        f"{recipe}_unpruned": "the recipe without pruning: every generated picture",
        "erm_reweighted": "plain training with all groups weighted alike" + NEEDS["train"],
        **{f"control_{kind}": f"control: {text}" for kind, text in CONTROL_WORDS.items()},
        **{f"unpruned_control_{kind}": f"control of all rows: {text}" for kind, text in CONTROL_WORDS.items()},
    }
    return fixed.get(name, "")


def _needs(recipe: str) -> str:
    from raygen.run.names import find_recipe

    try:
        return NEEDS[find_recipe(recipe)[1].needs_groups_of]
    except ValueError:  # of a paper that is not installed here
        return ""


def describe_point(params: Mapping[str, Any]) -> str:
    """A point of a sweep as text, "k=0.4 gamma=[3, 7]"; parameters by path, those per class with the class's number."""
    grouped: dict[str, Any] = {}
    for name, value in params.items():
        parent, _, last = name.rpartition(".")
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if last.isdigit():
            grouped.setdefault(parent.rpartition(".")[2], []).append(text)
        else:
            grouped[last] = text
    texts = {name: value if isinstance(value, str) else f"[{', '.join(value)}]" for name, value in grouped.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())
