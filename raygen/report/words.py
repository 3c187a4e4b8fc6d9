"""The fixed sentences of the page: what results, reasons and terms mean."""

GLOSSARY = (
    ("group", "Images with one class and one spurious attribute, such as waterbirds on land."),
    (
        "worst-group accuracy",
        "The lowest accuracy over the groups that occur, whichever group it is (Sagawa et al. 2020).",
    ),
    ("average", "Share of all images of the split that are right."),
    (
        "adjusted average",
        "Group accuracies averaged with the training split's group shares, as papers on Waterbirds report it.",
    ),
    (
        "interval",
        "95% Wilson interval: about the accuracies that this many test images cannot tell apart. It does not cover other seeds.",
    ),
    ("erm", "Empirical risk minimisation: plain training on the data as they are."),
    ("repaint mask", "The pixels that the diffusion model generates anew; all others stay as they were."),
    (
        "source, target",
        "The class of the original picture and the class that is to be generated; the picture gets the target's label.",
    ),
    (
        "ψ (psi)",
        "How probable the source class still is to the erm classifier on the generated picture. Ψ is the threshold per source class.",
    ),
    (
        "ρ (rho)",
        "How far the repainted pixels raise the target's logit (integrated gradients inside the mask). P is the threshold per target class.",
    ),
    ("kept, pruned, failed", "Kept for training; left out because of ψ or ρ; could not be generated."),
    (
        "controls",
        "The same fit with as many extra rows, but without a diffusion model: copies, grey holes, flat colours.",
    ),
    (
        "heat map",
        "Grad-CAM for the class that the classifier predicts: bright regions spoke for that answer.",
    ),
)

REASONS = {
    "source_probability": "source class still seen (ψ)",
    "attribution_inside": "target not seen in the mask (ρ)",
    "source_probability+attribution_inside": "both (ψ and ρ)",
}


def describe_result(name: str, recipe: str) -> str:
    """What a result is, in half a sentence; empty for names that are not of raygen's own making."""
    fixed = {
        recipe: "the recipe",
        "erm": "plain training on the data as they are",
        f"{recipe}_unpruned": "the recipe without pruning: every generated picture",
        "erm_reweighted": "plain training with all groups weighted alike; needs the group labels",
        "control_duplicate": "control: plain copies instead of generated pictures",
        "control_hole": "control: repaint region left grey, target label",
        "control_flat": "control: repaint region in one random object colour, target label",
    }
    return fixed.get(name, "")
