"""Last-layer methods on a file of features: no picture, no network, no Ray."""

# N rows, D features, C classes

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from pydantic import Field

from raygen.algorithms import AlgorithmConfig, head_algorithms
from raygen.algorithms.features import Features, FeatureTable
from raygen.algorithms.heads import ROLES_FILE, HeadConfig, HeadInputs, Linear, checked, write_roles
from raygen.algorithms.selection import WORDS, resolved
from raygen.config import Decides, PositiveInt, Seed, Strict, apply_overrides, dump_yaml, validate
from raygen.datasets.feature_file import SPLITS, FeatureFile, read_features
from raygen.errors import ConfigError, DataError, RunFolderError
from raygen.groups import group_index
from raygen.metrics import evaluate_predictions
from raygen.storage.progress import Say
from raygen.storage.versions import versions
from raygen.storage.writing import atomic, write_bytes, write_json, write_text
from raygen.synthesis.folds import assign_folds

# Of this command, so that a folder that it wrote can be told from others.
SUMMARY, HEAD = "summary.json", "head.safetensors"


class FirstHeadConfig(Strict, decides=Decides.RESULTS):
    """The head that a first fit would have: a logistic regression on the features of the training rows.

    Attributes:
        c_value: Inverse strength of its L2 penalty, on standardised features.
        max_iter: Steps of its solver at most.
    """

    c_value: float = Field(1.0, gt=0)
    max_iter: PositiveInt = 1000


class HeadsConfig(Strict, decides=Decides.RESULTS):
    """One head on a file of features.

    Attributes:
        seed: Of everything that is drawn.
        algorithm: How the head is fitted.
        first: The head that stands for the first fit's.
    """

    seed: Seed = 0
    algorithm: AlgorithmConfig
    first: FirstHeadConfig = FirstHeadConfig()


def make_heads_config(algorithm: str, overrides: Sequence[str]) -> HeadsConfig:
    """The config of an algorithm's name, with overrides.

    Raises:
        ConfigError: It fits more than a last layer, or is none; or a field is wrong.
    """
    known = head_algorithms()
    if algorithm not in known:
        raise ConfigError(
            f"--algorithm is '{algorithm}'; on features alone a last layer can be fitted, by {', '.join(sorted(known))}"
        )
    data = apply_overrides({"algorithm": {"name": algorithm}}, overrides)
    return validate(HeadsConfig, data, where="config")


def fit_heads(path: Path, config: HeadsConfig, out: Path, *, say: Say) -> dict[str, Any]:
    """Fits a head on a file of features and evaluates it; gives back what `summary.json` holds.

    Writes head.safetensors (weight and bias of a linear layer on the features as they are in the file), history.json,
    predictions.parquet, config.yaml, and roles.parquet where rows have several roles.

    Args:
        path: The file; see `raygen.datasets.feature_file.read_features`.
        config: How.
        out: A new folder, or one that this command wrote.
        say: Called with a line before each step.

    Raises:
        ConfigError: The algorithm needs what a file of features does not hold.
        DataError: The file is wrong, or has too few rows.
        RunFolderError: The folder holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / SUMMARY).is_file():
        raise RunFolderError(f"{out} is not empty and not written by raygen heads; give another --out")
    data = read_features(path)
    say(f"{path}: {len(data.features_ND):,} rows of {data.features_ND.shape[1]:,} features, {data.num_classes} classes")
    algorithm = config.algorithm
    assert isinstance(algorithm, HeadConfig)
    _check(algorithm, data, path)
    first, given = _inputs(config, data, path)
    if first is None:
        say(f"{path} has no row in split train, so there is no first fit to compare with")
    head, history = head_algorithms()[algorithm.name].fit_head(algorithm, given, seed=config.seed)
    heads = {**({} if first is None else {"erm": first}), algorithm.name: checked(head, what=algorithm.name)}
    predicted = {name: found.predict(data.features_ND) for name, found in heads.items()}
    by = algorithm.selects_by()
    summary = {
        "recipe": algorithm.name,
        "dataset": path.stem,
        "seed": config.seed,
        "versions": versions(),
        "selected_by": {
            algorithm.name: None if by is None else WORDS[resolved(by, has_groups=_groups(data, "val") is not None)]
        },
        "results": {name: _results(data, predicted_N) for name, predicted_N in predicted.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    _write(out, data, heads[algorithm.name], predicted)
    write_roles(given, lambda table: _write_table(table, out / ROLES_FILE))
    write_text(out / "config.yaml", dump_yaml(config.model_dump(mode="json")))
    write_json(out / "history.json", {"epochs": history})
    write_json(out / SUMMARY, summary)
    return summary


def _check(algorithm: HeadConfig, data: FeatureFile, path: Path) -> None:
    """What a run checks before any work."""
    counts = {
        split: np.bincount(data.table["label"].to_numpy()[data.rows(split)], minlength=data.num_classes)
        for split in SPLITS
    }
    if not counts["val"].any():
        raise DataError(f"{path} has no row in split val, on which {algorithm.name} fits or selects")
    if algorithm.needs_groups_of == "val" and _groups(data, "val") is None:
        raise DataError(f"{algorithm.name} needs the attribute of every row of split val, and {path} does not have it")
    algorithm.check_classes(data.num_classes)
    algorithm.check_counts(counts["train"], counts["val"])


def _inputs(config: HeadsConfig, data: FeatureFile, path: Path) -> tuple[Linear | None, HeadInputs]:
    """The first head (None where there are no training rows) and what the algorithm's own is fitted from."""
    algorithm, train, val = config.algorithm, data.rows("train"), data.rows("val")
    assert isinstance(algorithm, HeadConfig)
    label_N = data.table["label"].to_numpy()
    fitted = own = train
    if (fold := algorithm.held_out_fold()) is not None and len(train):
        is_own_M = assign_folds(label_N[train], num_folds=fold[1], seed=config.seed) == fold[0]
        fitted, own = train[~is_own_M], train[is_own_M]
    chosen = algorithm.training_rows(label_N[own], seed=config.seed)
    if not len(train) and (algorithm.reads_first or chosen is not None):
        raise DataError(
            f"{path} has no row in split train, and {algorithm.name} starts from a head that is fitted there"
        )
    first = _first_head(config, data, fitted) if len(train) else None
    nothing = Linear(np.zeros((data.num_classes, data.features_ND.shape[1])), np.zeros(data.num_classes))
    return first, HeadInputs(
        first=first or nothing,
        val=_table(data, val, "val"),
        train=None if chosen is None else _table(data, own[chosen], "train"),
    )


def _first_head(config: HeadsConfig, data: FeatureFile, row_M: np.ndarray) -> Linear:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    label_M = data.table["label"].to_numpy()[row_M]
    missing = np.setdiff1d(np.arange(data.num_classes), label_M)
    if len(missing):
        raise DataError(f"no row of split train that the first head is fitted on has label {missing[0]}")
    scaler = StandardScaler().fit(data.features_ND[row_M])
    model: Any = LogisticRegression(C=config.first.c_value, max_iter=config.first.max_iter)
    model.fit(scaler.transform(data.features_ND[row_M]), label_M)
    weight_CD, bias_C = model.coef_, model.intercept_
    if len(bias_C) == 1:
        weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
    return Linear(weight_CD, bias_C).of_affine(1 / scaler.scale_, -scaler.mean_ / scaler.scale_)


def _groups(data: FeatureFile, split: str) -> np.ndarray | None:
    """Groups of a split's rows; None where one has no attribute."""
    row_M = data.rows(split)
    attributes = data.table["attribute"].take(pa.array(row_M))
    if attributes.null_count or not len(row_M):
        return None
    label_M = data.table["label"].to_numpy()[row_M]
    return group_index(label_M, attributes.to_numpy(), num_attributes=data.num_attributes)


def _table(data: FeatureFile, row_M: np.ndarray, split: str) -> FeatureTable:
    part = data.table.take(pa.array(row_M))
    group_M = None
    if not part["attribute"].null_count:
        group_M = group_index(
            part["label"].to_numpy(), part["attribute"].to_numpy(), num_attributes=data.num_attributes
        )
    rows = Features(data.features_ND[row_M], part["label"].to_numpy(), group_M, data.num_classes, data.num_attributes)
    return FeatureTable(rows, split=split, ids=part["id"].to_pylist())


def _results(data: FeatureFile, predicted_N: np.ndarray) -> dict[str, Any]:
    """Accuracies on validation and test, as a run's summary has them."""
    train_N, found = _groups(data, "train"), {}
    counts_G = None
    if train_N is not None:
        counts_G = np.bincount(train_N, minlength=data.num_classes * data.num_attributes)
    for split in ("val", "test"):
        row_M = data.rows(split)
        if len(row_M):
            part = data.table.take(pa.array(row_M))
            found[split] = evaluate_predictions(
                part["label"].to_numpy(),
                predicted_N[row_M],
                part["attribute"].fill_null(-1).to_numpy(),
                num_classes=data.num_classes,
                num_attributes=data.num_attributes,
                train_counts_G=counts_G,
            )
    return found


def _write(out: Path, data: FeatureFile, head: Linear, predicted: dict[str, np.ndarray]) -> None:
    tensors = {"weight": head.weight_CD.astype(np.float32), "bias": head.bias_C.astype(np.float32)}
    write_bytes(out / HEAD, safetensors.numpy.save(tensors))
    columns = {name: pa.array(values, pa.int32()) for name, values in predicted.items()}
    table = data.table
    for name, column in columns.items():
        table = table.append_column(name, column)
    _write_table(table, out / "predictions.parquet")


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic(path) as temporary:
        pq.write_table(table, temporary)
