"""Before a run: everything that can be known to be wrong, asked once, and what is said of its dataset and libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raygen import cluster, synthesis
from raygen.algorithms.compilation import check_compiler
from raygen.algorithms.selection import resolved
from raygen.attention import check_deep_lift
from raygen.classifier import MapUse, check_classifier
from raygen.classifier.start import open_start
from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.datasets.table import check_prompts
from raygen.endpoint.connect import connect_endpoint
from raygen.endpoint.retry import ask_blocking
from raygen.errors import ConfigError, DataError, EndpointError, ResourceError
from raygen.fits import running
from raygen.inpainters.compilation import check_device
from raygen.inpainters.model_folder import EXAMPLE, check_model, load_json
from raygen.inpainters.prompts import tokenize, unknown_tokens
from raygen.maskers.language import TINY_DATASET
from raygen.model_files import TINY
from raygen.pools import pipeline
from raygen.run.config import RunConfig
from raygen.run.first_fit import lines_of_start
from raygen.run.opened import Opened
from raygen.storage.progress import Say
from raygen.storage.run_folder import MARKER
from raygen.synthesis.minority import check_val_groups
from raygen.textual_inversion.class_tokens import (
    check_num_images,
    check_prediction,
    check_same_text_encoder,
    check_tokens,
    class_tokens,
    load_tokenizer,
)


def check(opened: Opened) -> None:
    """Checks what can be checked before any work: classes, groups, the models, that pools and fits fit the machine.

    Raises:
        ConfigError: A list that does not fit the classes, masks by language that do not fit the dataset, an endpoint
            that cannot be used, or tokens that cannot be learned as asked.
        DataError: The algorithm needs groups that the dataset does not have, a class has too few images, or the
            dataset's folder cannot be used.
        ModelError: A model's folder is absent or incomplete.
        ResourceError: CPUs or GPUs that are not there.
    """
    opened.dataset.check()
    check_classes(opened)
    check_groups(opened)
    _check_classifier(opened)
    check_masks(opened)
    _check_models(opened)
    _check_tokens(opened)
    _check_resources(opened.config)


def check_classes(opened: Opened) -> None:
    """Checks that the recipe can do with the dataset's classes and their numbers of images.

    Raises:
        ConfigError: A list that does not fit the classes.
        DataError: Too few classes or images.
    """
    config, counts = opened.config, opened.dataset.class_counts("train")
    if sum(count > 0 for count in counts.values()) < 2:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"a classifier tells at least two classes apart; training images by class are {shown}")
    config.algorithm.check_classes(len(counts))
    val_counts = opened.dataset.class_counts("val")
    config.algorithm.check_counts(np.array(list(counts.values())), np.array(list(val_counts.values())))
    if config.synthesis is not None:
        config.synthesis.check_classes(counts)
        # It says if it cannot look for what the dataset shows.
        synthesis.of(config.synthesis).masker(config.synthesis, opened.dataset.info)


def check_groups(opened: Opened) -> None:
    """Checks that the dataset has the groups that the algorithm reads.

    Raises:
        ConfigError: A selection by groups of a dataset that has none.
        DataError: Images without an attribute, or a group without images.
    """
    config = opened.config
    for algorithm in (config.erm, config.algorithm):
        if (by := algorithm.selects_by()) is not None and algorithm.needs_groups_of != "val":
            resolved(by, has_groups=opened.dataset.group_counts("val") is not None)
    split = config.algorithm.needs_groups_of
    if split is None:
        return
    counts_CA = opened.dataset.group_counts(split)
    if counts_CA is None:
        images = {"train": "training", "val": "validation"}[split]
        raise DataError(
            f"recipe {config.recipe} needs the attribute of every {images} image, and this dataset does not have them "
            "all. Add the column `place` to metadata.csv, or take an algorithm that needs no groups, such as jtt."
        )
    config.algorithm.check_groups(counts_CA)


def _check_classifier(opened: Opened) -> None:
    config, info, map_for = opened.config, opened.dataset.info, None
    if config.synthesis is not None:
        fields = synthesis.of(config.synthesis).masker(config.synthesis, info)
        if fields["name"] == "cam":
            map_for = MapUse(config.synthesis.map_setting(), may_be_empty=fields.get("top_q") is not None)
    if map_for is None and (setting := config.algorithm.map_setting()) is not None:
        map_for = MapUse(setting, may_be_empty=True)
    check_classifier(config.classifier, len(info.class_names), map_for=map_for)
    if config.erm.from_ is not None:
        open_start(config.classifier, config.erm.from_, info.class_names)
    if config.measures.images and config.measures.deep_lift:
        check_deep_lift(config.classifier, len(info.class_names))


def check_masks(opened: Opened) -> None:
    """Checks that the dataset has object masks where the recipe reads them.

    Raises:
        DataError: It has none.
    """
    config = opened.config
    infills = config.synthesis is not None and config.synthesis.in_training() is not None
    if infills:
        assert config.synthesis is not None
        own = synthesis.of(config.synthesis).masker(config.synthesis, opened.dataset.info)["name"] in ("truth", "box")
        reads, way_out = own, "set synthesis.mask to language or cam, which find the objects"
    else:
        reads, way_out = config.algorithm.needs_masks(), "take a recipe without the saliency penalty"
    if reads and opened.dataset.num_masks("train") == 0:
        raise DataError(
            f"recipe {config.recipe} needs the object masks of the training images, and this dataset ships none. Add "
            f"the column mask_filename to metadata.csv, or {way_out}"
        )


def _check_models(opened: Opened) -> None:
    config = opened.config
    if config.synthesis is None:
        return
    if config.needs_model and config.inpainter.compile:
        check_device(config.pools.inpainter.torch_device, where="pools.inpainter")
    if (models := config.synthesis.finder()) is not None:
        models.check()
    if not config.needs_model:
        return
    if config.inpainter.url is not None:
        _check_endpoint(config.inpainter.url, config.inpainter.model)
        # What others have stored at the endpoint must not decide a run's pictures.
        _check_prompts(opened, tokenizer=None)
    elif opened.painter is not None:
        check_model(opened.painter)
        if opened.painter.folder is not None:
            _check_prompts(opened, load_tokenizer(opened.painter))


def _check_prompts(opened: Opened, tokenizer: Any | None) -> None:
    """Checks that prompts name no token that is not learned and, where the tokenizer is known, their lengths."""
    config, info, settings = opened.config, opened.dataset.info, opened.config.textual_inversion
    learned = [] if settings is None else [token.name for token in class_tokens(settings, info.class_names)]
    known = {*learned, *(() if tokenizer is None else tokenizer.get_added_vocab())}
    # Prompts with learned tokens are checked with these.
    texts = [("dataset.prompts", prompt) for prompt in info.prompts] if settings is None else []
    if config.synthesis is not None and not config.synthesis.asks_by_class:
        texts = [("synthesis.prompt", str(getattr(config.synthesis, "prompt", "")))]
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


def _check_tokens(opened: Opened) -> None:
    settings, model = opened.config.textual_inversion, opened.learner
    if settings is None or model is None:
        return
    split = "train" if settings.source == "high_loss" else "val"
    counts = opened.dataset.class_counts(split)
    tokens = class_tokens(settings, list(counts))
    check_num_images(settings, counts, split=split)
    if split == "val":
        counts_CA = opened.dataset.group_counts(split)
        if counts_CA is None:
            raise DataError(
                "textual_inversion.source is val_groups, which needs the attribute of every validation image, and "
                "this dataset does not have them all; take source=high_loss"
            )
        check_val_groups(counts_CA, class_names=list(counts), num_images=settings.num_images)
    check_model(model, field="inpainter" if settings.model is None else "textual_inversion")
    if model.folder is None:
        return  # a hub id: the fit checks the rest once it is loaded
    scheduler = load_json(model.folder / "scheduler" / "scheduler_config.json", model.folder)
    check_prediction(scheduler, model=model.config.model)
    check_tokens(tokens, settings, load_tokenizer(model))
    if opened.painter is not None and opened.painter.folder is not None:
        check_same_text_encoder(model, opened.painter)


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
        if config.fit.compile:
            check_compiler(config.fit.torch_device)
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
    running.check_workers(config.fit)


def check_painter(opened: Opened, out: Path, *, fresh: bool) -> None:
    """Checks that the shipped model, which knows only the scenes, does not paint other pictures without being asked.

    A folder that was begun goes on: its `config.yaml` names the model.

    Args:
        opened: What to do.
        out: The folder that it is done in.
        fresh: Whether what the folder holds is deleted first.

    Raises:
        ConfigError: Nobody said which model paints pictures of something else.
    """
    inpainter, info = opened.config.inpainter, opened.dataset.info
    is_scenes = _is_of_scenes(opened)
    is_said = "model" in inpainter.model_fields_set or inpainter.kind == "served"
    is_begun = not fresh and (out / MARKER).is_file()
    if not opened.config.needs_model or is_said or is_begun or is_scenes:
        return
    raise ConfigError(
        f"inpainter.model is '{inpainter.model}' unless another is named, and it paints only the birds of "
        f"'{TINY_DATASET}', but the dataset is '{info.name}'. Name a model that knows its objects, a folder or a hub "
        f"id such as inpainter.model={EXAMPLE}, or an endpoint (inpainter.kind=served with inpainter.url). If the "
        f"pictures are scenes, say so: inpainter.model={inpainter.model}"
    )


def _is_of_scenes(opened: Opened) -> bool:
    """Whether the dataset shows what the shipped models know; a user's folder may be called so too."""
    info = opened.dataset.info
    return (info.name, info.class_names) == (TINY_DATASET, CLASS_NAMES)


def warn_of_painter(opened: Opened, say: Say) -> None:
    """Says if the shipped model paints pictures of something else: somebody named it."""
    inpainter, info = opened.config.inpainter, opened.dataset.info
    if opened.config.needs_model and inpainter.url is None and inpainter.model == TINY and not _is_of_scenes(opened):
        say(
            f"warning: inpainter.model is '{TINY}', which paints only the birds of '{TINY_DATASET}', whatever it is "
            f"asked for; on dataset '{info.name}' its pictures show no {info.class_names[0]}, and no number of this "
            "run says anything about the recipe"
        )


def warn_of_versions(others: Mapping[str, tuple[str | None, str | None]], say: Say) -> None:
    """Says which libraries have another version than a folder was begun with; nothing where none has."""
    if others:
        changes = ", ".join(f"{name} {then} -> {now}" for name, (then, now) in others.items())
        say(f"warning: other versions than this folder was begun with ({changes}); the last bits may differ")


def say_of_dataset(opened: Opened, say: Say) -> None:
    """Says what the dataset's classes are called and what of it is left out, and warns of classes without names."""
    for line in opened.dataset.lines:
        say(line)
    warn_of_painter(opened, say)
    warn_of_numbers(opened, say)
    for line in lines_of_start(opened.config.algorithm, opened.config.erm):
        say(line)


def warn_of_numbers(opened: Opened, say: Say) -> None:
    """Says if the inpainter will be asked for classes that only have numbers, which no model knows."""
    paper = opened.config.synthesis
    if paper is None or not opened.config.needs_model or not paper.asks_by_class:
        return
    info, tokens = opened.dataset.info, opened.config.textual_inversion
    if tokens is not None:
        asked, other = tokens.words or info.class_names, "textual_inversion.words"
    else:
        asked, other = info.prompts, "dataset.prompts"
    if info.has_numbered_classes and asked in (info.class_names, check_prompts((), info.class_names)):
        say(
            f"warning: nothing names the classes of dataset '{info.name}', so the inpainter is asked for '{asked[0]}', "
            f"which no model knows. Set dataset.class_names, such as '[landbird, waterbird]' in label order, or {other}"
        )
