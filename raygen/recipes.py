"""Recipes: a named pair of one synthesis (or none) and one algorithm, and the whole job from top to bottom.

`run` is the place to start reading: every step of the job is one call.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raygen import cluster, synthesis
from raygen.classifier import MapUse, check_classifier, load_classifier
from raygen.config import PoolsConfig, Strict, apply_overrides, validate
from raygen.datasets import (
    DatasetConfig,
    check_usable,
    class_counts,
    dataset_info,
    dataset_lines,
    group_counts,
    write_dataset,
)
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import check_prompts
from raygen.endpoint.connect import connect_endpoint
from raygen.endpoint.retry import ask_blocking
from raygen.errors import ConfigError, DataError, EndpointError, ResourceError
from raygen.fits import ray_train
from raygen.inpainters.model_folder import check_model, load_json, resolve_model
from raygen.inpainters.prompts import tokenize, unknown_tokens
from raygen.maskers.language import check_finder
from raygen.pools import pipeline
from raygen.run.config import RunConfig, check_painter, identity, make_config
from raygen.run.evaluation import held_out, predict
from raygen.run.results import results
from raygen.run.steps import Steps
from raygen.storage.progress import Say, quiet
from raygen.storage.run_folder import RunFolder
from raygen.storage.writing import disk_errors
from raygen.synthesis.minority import check_val_groups
from raygen.textual_inversion.class_tokens import (
    check_num_images,
    check_prediction,
    check_same_text_encoder,
    check_tokens,
    class_tokens,
    load_tokenizer,
    trained_model,
)

__all__ = ["RunConfig", "evaluate_classifier", "make_config", "make_dataset", "run"]


def run(config: RunConfig, out: Path, *, fresh: bool, command: str, say: Say, reuse: Sequence[Path] = ()) -> None:
    """The whole job; steps that are complete are skipped.

    Args:
        config: What to do.
        out: The run's folder.
        fresh: Delete what the folder holds first.
        command: The command line, for the report.
        say: Called with a line before each step, and from another thread in long ones.
        reuse: Folders of other runs, whose finished steps of the same config and inputs are taken from there.

    Raises:
        RaygenError: See the steps; what was complete stays complete.
    """
    check_painter(config, out, fresh=fresh)
    check(config)
    folder = RunFolder(out, reuse)
    with folder.claimed(config.model_dump(mode="json"), identity=identity(config), fresh=fresh) as other_versions:
        folder.log("command", argv=command)
        warn_of_versions(other_versions, say)
        say_of_dataset(config, say)
        job = Steps(config, folder, say)
        data = job.load_rows()
        erm = job.fit_erm(data)
        fitted = {"erm": erm}
        if config.synthesis is not None:
            job.fit_first(data)
            identifier = job.fit_identifier(data, erm)
            scores = job.score(data, identifier)
            tokens = job.learn_tokens(data, scores, identifier)
            plan = job.plan(data, scores, tokens)
            candidates = job.synthesize(plan, data, identifier, tokens)
            fitted |= job.fit_all(data, scores, candidates, erm)
        elif config.recipe != "erm":
            fitted[config.recipe] = job.fit(config.recipe, data, erm, extra=None)
        job.evaluate(data, fitted)


def make_dataset(
    data: dict[str, Any], overrides: Sequence[str], out: Path, *, seed: int, say: Say = quiet
) -> dict[str, int]:
    """Writes a dataset folder; gives back rows per split.

    Raises:
        ConfigError: A wrong field.
        DataError: The folder is not empty, or the dataset is wrong.
    """

    class Wrapped(Strict):
        dataset: DatasetConfig

    config = validate(Wrapped, {"dataset": apply_overrides(data, overrides)}, where="dataset").dataset
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} is there already and not an empty folder; give another --out")
    for line in dataset_lines(config):
        say(line)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return write_dataset(config, out, run_seed=seed)


def evaluate_classifier(classifier: Path, data: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Accuracies of one classifier on a dataset's validation and test splits, in the form of summary.json.

    Raises:
        ModelError: Not a classifier's folder.
        DataError: The dataset is wrong, or has another number of classes than the classifier.
    """
    num_classes = load_classifier(classifier).num_classes
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(data, [], folder / "data", seed=seed)
        (folder / "parts").mkdir()
        index = RowIndex.open(folder / "data")
        if index.num_classes != num_classes:
            names = ", ".join(index.dataset.class_names)
            raise DataError(
                f"{classifier} tells {num_classes} classes apart, and the dataset has {index.num_classes} ({names}); "
                "accuracies would be of other classes than it knows. Give the dataset that it was fitted on, or one "
                "with the same classes in the same order"
            )
        table = held_out(index)
        predictions = predict(
            index,
            table,
            {"predicted": str(classifier)},
            folder / "parts",
            PoolsConfig(),
            "evaluate",
            1.0,
            "local",
        )
        return results(predictions, index, names=["predicted"])["predicted"]


def warn_of_versions(others: Mapping[str, tuple[str | None, str | None]], say: Say) -> None:
    """Says which libraries have another version than a folder was begun with; nothing where none has."""
    if others:
        changes = ", ".join(f"{name} {then} -> {now}" for name, (then, now) in others.items())
        say(f"warning: other versions than this folder was begun with ({changes}); the last bits may differ")


def say_of_dataset(config: RunConfig, say: Say) -> None:
    """Says what the dataset's classes are called and what of it is left out, and warns of classes without names."""
    for line in dataset_lines(config.dataset):
        say(line)
    warn_of_numbers(config, say)


def warn_of_numbers(config: RunConfig, say: Say) -> None:
    """Says if the inpainter will be asked for classes that only have numbers, which no model knows."""
    if config.synthesis is None:
        return
    info, tokens = dataset_info(config.dataset), config.textual_inversion
    if tokens is not None:
        asked, other = tokens.words or info.class_names, "textual_inversion.words"
    else:
        asked, other = info.prompts, "dataset.prompts"
    if info.has_numbered_classes and asked in (info.class_names, check_prompts((), info.class_names)):
        say(
            f"warning: nothing names the classes of dataset '{info.name}', so the inpainter is asked for '{asked[0]}', "
            f"which no model knows. Set dataset.class_names, such as '[landbird, waterbird]' in label order, or {other}"
        )


def check(config: RunConfig) -> None:
    """Checks what can be checked before any work: classes, groups, the models, that pools and fits fit the machine.

    Raises:
        ConfigError: A list that does not fit the classes, masks by language that do not fit the dataset, an endpoint
            that cannot be used, or tokens that cannot be learned as asked.
        DataError: The algorithm needs groups that the dataset does not have, a class has too few images, or the
            dataset's folder cannot be used.
        ModelError: A model's folder is absent or incomplete.
        ResourceError: CPUs or GPUs that are not there.
    """
    check_usable(config.dataset)
    _check_classes(config)
    _check_groups(config)
    _check_classifier(config)
    _check_models(config)
    _check_tokens(config)
    _check_resources(config)


def _check_classes(config: RunConfig) -> None:
    counts = class_counts(config.dataset, "train")
    if sum(count > 0 for count in counts.values()) < 2:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"a classifier tells at least two classes apart; training images by class are {shown}")
    config.algorithm.check_classes(len(counts))
    if config.synthesis is not None:
        config.synthesis.check_classes(counts)
        # It says if it cannot look for what the dataset shows.
        synthesis.of(config.synthesis).masker(config.synthesis, dataset_info(config.dataset))


def _check_groups(config: RunConfig) -> None:
    split = config.algorithm.needs_groups_of
    if split is None:
        return
    counts_CA = group_counts(config.dataset, split)
    if counts_CA is None:
        images = {"train": "training", "val": "validation"}[split]
        raise DataError(
            f"recipe {config.recipe} needs the attribute of every {images} image, and this dataset does not have them "
            "all. Add the column `place` to metadata.csv, or take an algorithm that needs no groups, such as jtt."
        )
    config.algorithm.check_groups(counts_CA)


def _check_classifier(config: RunConfig) -> None:
    info, map_for = dataset_info(config.dataset), None
    if config.synthesis is not None:
        fields = synthesis.of(config.synthesis).masker(config.synthesis, info)
        if fields["name"] == "cam":
            map_for = MapUse(config.synthesis.map_setting(), may_be_empty=fields.get("top_q") is not None)
    check_classifier(config.classifier, len(info.class_names), map_for=map_for)


def _check_models(config: RunConfig) -> None:
    if config.synthesis is None:
        return
    if (models := config.synthesis.finder()) is not None:
        check_finder(models)
    if config.inpainter.url is not None:
        _check_endpoint(config.inpainter.url, config.inpainter.model)
        # What others have stored at the endpoint must not decide a run's pictures.
        _check_prompts(config, tokenizer=None)
    elif check_model(config.inpainter) is not None:
        _check_prompts(config, load_tokenizer(config.inpainter))


def _check_prompts(config: RunConfig, tokenizer: Any | None) -> None:
    """Checks that prompts name no token that is not learned and, where the tokenizer is known, their lengths."""
    settings, info = config.textual_inversion, dataset_info(config.dataset)
    learned = [] if settings is None else [token.name for token in class_tokens(settings, info.class_names)]
    known = {*learned, *(() if tokenizer is None else tokenizer.get_added_vocab())}
    # Prompts with learned tokens are checked with these.
    texts = [("dataset.prompts", prompt) for prompt in info.prompts] if settings is None else []
    for field, text in [*texts, ("inpainter.negative_prompt", config.inpainter.negative_prompt)]:
        if tokenizer is not None:
            read = tokenize(tokenizer, text, {name: np.zeros((1, 1), np.float32) for name in learned})
            if read.first_dropped is not None:
                raise ConfigError(
                    f"{field}: '{text}' has {len(read.ids)} tokens with start and end, but the model reads "
                    f"{read.max_length}; shorten it"
                )
        if unknown := unknown_tokens(text, known):
            raise ConfigError(
                f"{field}: '{text}' names the token {unknown[0]}, which the model's tokenizer does not have and this "
                "run does not learn; it would be read as plain letters. Switch textual_inversion on, or leave it out"
            )


def _check_endpoint(url: str, model: str) -> None:
    if url.startswith("serve://"):
        cluster.connect()
    try:
        ask_blocking(connect_endpoint(url).facts, model)
    except EndpointError as error:
        raise ConfigError(f"inpainter.url {url} cannot be used for model '{model}': {error}") from error


def _check_tokens(config: RunConfig) -> None:
    settings = config.textual_inversion
    if settings is None:
        return
    split = "train" if settings.source == "high_loss" else "val"
    counts = class_counts(config.dataset, split)
    tokens = class_tokens(settings, list(counts))
    check_num_images(settings, counts, split=split)
    if split == "val":
        counts_CA = group_counts(config.dataset, split)
        if counts_CA is None:
            raise DataError(
                "textual_inversion.source is val_groups, which needs the attribute of every validation image, and "
                "this dataset does not have them all; take source=high_loss"
            )
        check_val_groups(counts_CA, class_names=list(counts), num_images=settings.num_images)
    model = trained_model(settings, config.inpainter)
    folder = check_model(model, field="inpainter" if settings.model is None else "textual_inversion")
    if folder is None:
        return  # a hub id: the fit checks the rest once it is loaded
    check_prediction(load_json(folder / "scheduler" / "scheduler_config.json", folder), model=model.model)
    check_tokens(tokens, settings, load_tokenizer(model))
    if config.inpainter.url is None and Path(resolve_model(config.inpainter.model)).is_dir():
        check_same_text_encoder(model, config.inpainter)


def _check_resources(config: RunConfig) -> None:
    # Before anything starts: a first fit of an hour must not end at a pool that can never start.
    pools = ["scorer"] if config.synthesis is None else ["masker", "inpainter", "pruner"]
    if config.engine == "local":
        names = dict.fromkeys(("scorer", *pools))
        wanted = [f"pools.{name}" for name in names if getattr(config.pools, name).torch_device == "cuda"]
        wanted += ["fit"] if config.fit.torch_device == "cuda" else []
        if wanted and not torch.cuda.is_available():
            raise ResourceError(
                f"this machine has no CUDA device that torch can use, but {wanted[0]} is to run on one; set its "
                "num_gpus to 0, and device, where it is set, to cpu"
            )
        return
    for name in dict.fromkeys(("scorer", *pools)):
        pool = getattr(config.pools, name)
        if pool.torch_device == "cuda" and not pool.num_gpus:
            raise ConfigError(
                f"pools.{name}.device is cuda, but its num_gpus is 0, and Ray hides every GPU from such an actor; set "
                f"pools.{name}.num_gpus, such as 0.1 to share one"
            )
    cluster.connect()
    pipeline.check_pools(["scorer"], config.pools)
    pipeline.check_pools(pools, config.pools)
    ray_train.check_workers(config.fit)
