"""The dataset card of an export: README.md with the header that Hugging Face's hub and `datasets` read."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

import raygen
from raygen.config import dump_yaml
from raygen.exports import licences
from raygen.exports.pictures import METADATA, Pictures
from raygen.model_files import TINY
from raygen.run.names import find_recipe

# Prompts that are listed; of recipes that ask for every image something else, there are as many as pictures.
PROMPTS = 20
# The hub's own classes of sizes.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_FILES = {
    "parquet": "data/{split}-*.parquet",
    "hf": "data/{split}-*.parquet",
    "webdataset": "data/{split}-*.tar",
    "imagefolder": "{split}/**",
}
_MEANINGS = {
    "train": "kept by the run, and of the class that `label` says",
    "counterfactual": "kept by the run, and of **any class but** the one that `label` says",
    "pruned": "**not** kept by the run: `prune_reason` says why. Not for training",
}
_COLUMNS = {
    "name": "of the picture's files, without a suffix",
    "key": "of the candidate in the run: source image, label and sample",
    "label, label_name": "the class that the picture was made as",
    "source_label, source_label_name": "the class of the image that it was made from",
    "attribute, attribute_name": "the spurious attribute of that image, which the picture keeps; null where unknown",
    "source_image_id": "that image, in the source dataset",
    "role": "`counterfactual`: shows anything but its label; null or `factual`: shows its label",
    "kept, prune_reason": "the run's verdict, and the tests that the picture failed",
    "prompt, seed, sample": "what the model was asked for, and from which noise; a source can have several samples",
    "loss_rank, cluster, predicted_label": "why the source was chosen: the biased classifier's loss, cluster, answer",
    "source_probability": "softmax of the source's class on the picture, by the biased classifier",
    "attribution_inside": "by how much the repainted pixels raise the logit of `label`",
    "convergence_delta": "how far the attributions are from the difference that they explain; 0 when exact",
    "repaint_fraction, object_iou": "share of the picture that was repainted; how well the mask met the true object",
    "model_id, model_revision": "the model that painted, and the digest of its files or its commit",
}


def dataset_card(pictures: Pictures, *, format: str) -> str:
    """The card's text: header, what the pictures are and come from, counts, columns, licences.

    Args:
        pictures: What is exported.
        format: A key of `raygen.exports.writing`'s formats.
    """
    parts = [f"---\n{dump_yaml(_header(pictures, format))}---\n", *_lines(pictures, format)]
    return "\n".join(parts).rstrip() + "\n"


def _header(pictures: Pictures, format: str) -> dict[str, Any]:
    models = {model for model, _ in _models(pictures)}
    is_ours = pictures.config["dataset"]["name"] in licences.SCENES and models <= {TINY, "composition"}
    data_files = [{"split": split, "path": _FILES[format].format(split=split)} for split in pictures.by_split]
    size = next((text for limit, text in _SIZES if pictures.num_exported < limit), "n>1M")
    return {
        "pretty_name": _title(pictures),
        "license": "apache-2.0" if is_ours else "other",
        "task_categories": ["image-classification"],
        "size_categories": [size],
        "tags": ["synthetic", "raygen", "spurious-correlations", *(["webdataset"] if format == "webdataset" else [])],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }


def _title(pictures: Pictures) -> str:
    return f"Synthetic {pictures.info.name} by {pictures.config['recipe']}"


def _lines(pictures: Pictures, format: str) -> Iterator[str]:
    config, counts = pictures.config, pictures.counts
    yield f"# {_title(pictures)}\n"
    yield (
        "**These pictures are synthetic.** Parts of the source dataset's images were generated anew by raygen "
        f"{raygen.__version__} so that a classifier cannot rely on a spurious cue; every file says so in its own "
        "text chunks (`synthetic`, model, prompt, seed, source). They show what a model made of a prompt, not what "
        "was in front of a camera: do not use them as evidence, or to evaluate a classifier.\n"
    )
    yield f"- Source: `{pictures.info.name}`; classes {_listed(pictures.info.class_names)}"
    yield f"- Attribute: {_listed(pictures.info.attribute_names) or 'unknown'}"
    yield f"- Recipe: `{config['recipe']}`: {find_recipe(config['recipe'])[1].paper}"
    yield f"- Seed: {_seed(config)}; versions: {_versions(pictures.versions)}"
    yield (
        f"- Generated: {counts['generated']:,}; kept: {counts['kept']:,}; pruned: {counts['pruned']:,}; failed, "
        f"without a picture: {counts['failed']:,}{' (`failed.jsonl`)' if pictures.failed.num_rows else ''}"
    )
    yield f"- Format: {format}; pictures and masks are PNG; in a mask 255 is what was generated anew\n"
    yield "## Counts\n"
    yield "| split | label | attribute | pictures |\n| --- | --- | --- | --- |"
    for split, table in pictures.by_split.items():
        for (label, attribute), n in _groups(table):
            yield f"| {split} | {_cell(label)} | {_cell(attribute or 'unknown')} | {n:,} |"
    yield ""
    for split in pictures.by_split:
        yield f"- `{split}`: {_MEANINGS[split]}"
    yield "\n## Columns\n\n| column | meaning |\n| --- | --- |"
    assert {name for names in _COLUMNS for name in names.split(", ")} == {*METADATA.names}
    yield from (f"| {names} | {meaning} |" for names, meaning in _COLUMNS.items())
    yield "\n## Models and prompts\n"
    yield "| model | revision | licence |\n| --- | --- | --- |"
    for model, revision in _models(pictures):
        licence = licences.of_model(model) or "not known to raygen: see the model's card"
        yield f"| {_cell(model)} | {_cell(revision)} | {_cell(licence)} |"
    yield ""
    yield from _prompt_lines(pictures)
    yield from _licence_lines(pictures)


def _prompt_lines(pictures: Pictures) -> Iterator[str]:
    prompts: Counter[str] = Counter()
    for table in pictures.by_split.values():
        prompts.update(table["prompt"].to_pylist())
    for prompt, n in prompts.most_common(PROMPTS):
        yield f"- {n:,} x `{prompt}`"
    if len(prompts) > PROMPTS:
        yield f"- and {len(prompts) - PROMPTS:,} more, in the column `prompt`"


def _licence_lines(pictures: Pictures) -> Iterator[str]:
    found = licences.of_dataset(pictures.info.name, pictures.config["dataset"]["name"])
    yield "\n## Licences\n"
    yield (
        "Pixels outside of a mask are the source image's, and the source dataset's terms hold for them: "
        f"{found or 'not known to raygen; see where the dataset comes from'}. Pixels inside come from the models "
        "above, whose licences can restrict their use (OpenRAIL does, and asks that restrictions are passed on). "
        "raygen has checked neither: check both before you pass this on."
    )


def _models(pictures: Pictures) -> list[tuple[str, str]]:
    tables = [table.select(["model_id", "model_revision"]) for table in pictures.by_split.values()]
    unique = pa.concat_tables(tables).group_by(["model_id", "model_revision"]).aggregate([])
    return sorted(zip(unique["model_id"].to_pylist(), unique["model_revision"].to_pylist(), strict=True))


def _groups(table: pa.Table) -> list[tuple[tuple[str, str | None], int]]:
    names = table.group_by(["label", "label_name", "attribute", "attribute_name"]).aggregate([([], "count_all")])
    rows = names.sort_by([("label", "ascending"), ("attribute", "ascending")]).to_pylist()
    return [((row["label_name"], row["attribute_name"]), row["count_all"]) for row in rows]


def _seed(config: Mapping[str, Any]) -> Any:
    return config.get("picture_seed") or config.get("seed")


def _versions(versions: Mapping[str, str | None]) -> str:
    wanted = ("raygen", "torch", "diffusers", "transformers")
    return ", ".join(f"{name} {versions[name]}" for name in wanted if versions.get(name))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
