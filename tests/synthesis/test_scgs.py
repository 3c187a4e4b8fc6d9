import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import oracles
import pyarrow as pa
import pytest
import scipy.stats
from numpy.typing import ArrayLike
from score_tables import dataset, score_table, shuffled, with_failed_rows

from raygen.errors import ConfigError, DataError
from raygen.pruners import PruneThresholds
from raygen.synthesis.gaussian_sampling import (
    Covariance,
    gaussian_log_weights,
    largest_remainder,
    pca_components,
    sample_without_replacement,
)
from raygen.synthesis.scgs import ScgsConfig, clusters_per_class, num_to_generate, select, thresholds

TOLERANCE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


def weights(
    features_ND: ArrayLike, covariance: Covariance = "full", *, max_components: int = 8, temperature: float = 1.0
) -> Any:
    features_ND = np.asarray(features_ND, dtype=float)
    return np.exp(
        gaussian_log_weights(features_ND, covariance=covariance, max_components=max_components, temperature=temperature)
    )


def points(num: int, dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dims)) * np.arange(1, dims + 1)


@pytest.mark.parametrize("covariance", ["full", "pca"])
def test_three_points_on_a_line_have_the_weights_worked_out_by_hand(covariance: Covariance) -> None:
    """Unbiased variance 1, so m^2 is 1, 0, 1 and the weights are exp(-1/2) : 1 : exp(-1/2)."""
    found = weights([[-1], [0], [1]], covariance)
    np.testing.assert_allclose(found, [0.274069, 0.451863, 0.274069], atol=5e-7)


def test_full_covariance_is_equation_3_normalised() -> None:
    features_ND = points(30, 4)
    np.testing.assert_allclose(weights(features_ND), oracles.gaussian_weights(features_ND), **TOLERANCE)
    log_density_N = scipy.stats.multivariate_normal.logpdf(
        features_ND, features_ND.mean(axis=0), np.cov(features_ND, rowvar=False)
    )
    np.testing.assert_allclose(weights(features_ND), scipy.special.softmax(log_density_N), **TOLERANCE)


def test_full_covariance_does_not_change_under_invertible_affine_maps() -> None:
    features_ND = points(30, 4)
    matrix = np.random.default_rng(1).normal(size=(4, 4)) + 3 * np.eye(4)
    np.testing.assert_allclose(weights(features_ND @ matrix + 5), weights(features_ND), rtol=1e-9)


def test_squared_distances_sum_to_points_minus_one_times_dimensions() -> None:
    log_weight_N = gaussian_log_weights(points(30, 4), covariance="full", max_components=8, temperature=1)
    features_ND = points(30, 4)
    centred_ND = features_ND - features_ND.mean(axis=0)
    inverse = np.linalg.inv(np.cov(features_ND, rowvar=False))
    distance_N = np.einsum("nd,de,ne->n", centred_ND, inverse, centred_ND)
    assert distance_N.sum() == pytest.approx(29 * 4)
    # Up to the constant of normalisation, the log-weights are minus half of these distances.
    np.testing.assert_allclose(np.ptp(log_weight_N + 0.5 * distance_N), 0, atol=1e-9)


def test_with_more_features_than_images_the_pseudo_inverse_weighs_all_alike() -> None:
    """Every in-sample squared distance is then (N - 1)^2 / N: why eq. (3) needs a repair."""
    features_ND = points(12, 50)
    np.testing.assert_allclose(weights(features_ND), 1 / 12, rtol=1e-9)
    log_density_N = scipy.stats.multivariate_normal.logpdf(
        features_ND, features_ND.mean(axis=0), np.cov(features_ND, rowvar=False), allow_singular=True
    )
    np.testing.assert_allclose(scipy.special.softmax(log_density_N), 1 / 12, rtol=1e-6)


def test_principal_components_give_the_weights_of_the_projected_points() -> None:
    """Projection, then eq. (3) there: without the shortcut through the left singular vectors."""
    features_ND = points(41, 60)
    centred_ND = features_ND - features_ND.mean(axis=0)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(features_ND, rowvar=False))
    projected_Nd = centred_ND @ eigenvectors[:, np.argsort(-eigenvalues)[:8]]
    expected_N = oracles.gaussian_weights(projected_Nd)
    np.testing.assert_allclose(weights(features_ND, "pca"), expected_N, rtol=1e-8)


def test_all_principal_components_weigh_all_alike() -> None:
    """At d = N - 1 the repair is no repair, hence the cap at a quarter of the images."""
    features_ND = points(9, 30)
    log_weight_N = gaussian_log_weights(features_ND, covariance="full", max_components=8, temperature=1)
    np.testing.assert_allclose(np.exp(log_weight_N), 1 / 9, rtol=1e-9)
    assert [pca_components(n, at_most=8) for n in (1, 2, 5, 9, 32, 33, 400)] == [1, 1, 1, 2, 7, 8, 8]


@pytest.mark.parametrize("covariance", ["pca", "full", "ledoit_wolf", "uniform"])
def test_one_point_has_all_the_weight_and_duplicates_share_it(covariance: Covariance) -> None:
    np.testing.assert_allclose(weights([[3.0, 4.0]], covariance), [1])
    np.testing.assert_allclose(weights([[3.0, 4.0]] * 5, covariance), [0.2] * 5)


@pytest.mark.parametrize("covariance", ["pca", "full", "ledoit_wolf"])
def test_weights_sum_to_one_favour_the_centre_and_flatten_with_temperature(covariance: Covariance) -> None:
    features_ND = points(40, 3)
    cold, warm = (weights(features_ND, covariance, temperature=t) for t in (1.0, 4.0))
    assert cold.sum() == pytest.approx(1)
    np.testing.assert_allclose(warm, cold**0.25 / (cold**0.25).sum(), rtol=1e-9)
    distance_N = np.linalg.norm((features_ND - features_ND.mean(axis=0)) / features_ND.std(axis=0), axis=1)
    assert scipy.stats.spearmanr(cold, -distance_N).statistic > 0.7


def test_draws_follow_the_probabilities_of_drawing_one_by_one() -> None:
    """40,000 repetitions; five standard errors of a frequency."""
    weight_N = [0.5, 0.3, 0.15, 0.05]
    rng = np.random.default_rng(0)
    counts = Counter(tuple(sample_without_replacement(np.log(weight_N), 2, rng).tolist()) for _ in range(40_000))
    for drawn in itertools.permutations(range(4), 2):
        expected = oracles.successive_draw_probability(weight_N, list(drawn))
        assert counts[drawn] / 40_000 == pytest.approx(expected, abs=5 * (expected / 40_000) ** 0.5)


def test_draws_are_distinct_even_when_weights_vanish() -> None:
    drawn = sample_without_replacement(np.array([0.0, -1e4, -1e5, -1e6]), 4, np.random.default_rng(0))
    assert sorted(drawn.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(10))
def test_largest_remainder_sums_up_and_is_within_one_of_the_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes_K = rng.integers(1, 50, size=4)
    total = int(rng.integers(1, sizes_K.sum() + 1))
    split_K = largest_remainder(total, sizes_K)
    assert sum(split_K) == total
    for part, size in zip(split_K, sizes_K, strict=True):
        assert abs(part - total * size / sizes_K.sum()) < 1
        assert part <= size


def test_equal_remainders_go_to_the_first_cluster() -> None:
    assert largest_remainder(3, [5, 5]) == [2, 1]


@pytest.mark.parametrize(
    ("counts_C", "ratio", "expected"),
    [
        ((611, 512), 0.4, [205, 244]),  # MetaShift
        ((3682, 1113), 0.4, [445, 1473]),  # Waterbirds
        ((138503, 24267), 0.2, [4853, 27701]),  # CelebA
    ],
)
def test_numbers_to_generate_on_the_papers_datasets(counts_C: Any, ratio: Any, expected: Any) -> None:
    assert num_to_generate(counts_C, ratio=ratio) == expected
    shared = num_to_generate(counts_C, ratio=ratio, equally=True)
    assert len({*shared}) == 1
    assert abs(sum(shared) - sum(expected)) <= len(shared)  # as many in all, but for rounding


def wrong_and_right(num_wrong: tuple[int, ...], num_right: tuple[int, ...], *, dims: int = 6, seed: int = 0) -> Any:
    """Scores in which so many images of each class are misclassified as the next class."""
    labels, logits = [], []
    for label, (wrong, right) in enumerate(zip(num_wrong, num_right, strict=True)):
        labels += [label] * (wrong + right)
        said = [(label + 1) % len(num_wrong)] * wrong + [label] * right
        logits += [np.eye(len(num_wrong))[other] * 3 for other in said]
    features_ND = np.random.default_rng(seed).normal(size=(len(labels), dims))
    return score_table(labels, np.array(logits), features_ND=features_ND)


@pytest.mark.parametrize("covariance", ["pca", "full", "ledoit_wolf", "uniform"])
def test_plan_spreads_the_numbers_over_a_fifth_of_the_misclassified_images(covariance: Covariance) -> None:
    """With the epoch-0 numbers of MetaShift: 43 cats and 82 dogs wrong give 9 and 16 sources."""
    scores = wrong_and_right((43, 82), (568, 430))
    config = ScgsConfig(num_clusters=4, covariance=covariance, sample_fraction=0.2)
    plan = select(config, scores, dataset=dataset(), run_seed=3).to_pylist()
    for label, (num_sources, num_pictures) in enumerate([(9, 205), (16, 244)]):
        rows = [row for row in plan if row["target_label"] == label]
        per_source = Counter(row["image_id"] for row in rows)
        assert len(rows) == num_pictures
        assert len(per_source) == num_sources
        assert max(per_source.values()) - min(per_source.values()) <= 1
        assert all(row["source_label"] == label and row["predicted_label"] != label for row in rows)
        assert {row["prompt"] for row in rows} == {dataset().prompts[label]}
        for image_id, num in per_source.items():
            assert sorted(row["sample"] for row in rows if row["image_id"] == image_id) == list(range(num))
    assert len({row["key"] for row in plan}) == len(plan)
    assert len({row["seed"] for row in plan}) == len(plan)


def test_by_default_every_misclassified_image_is_a_source() -> None:
    scores = wrong_and_right((43, 82), (568, 430))
    plan = select(ScgsConfig(), scores, dataset=dataset(), run_seed=0).to_pylist()
    assert [len({row["image_id"] for row in plan if row["target_label"] == label}) for label in (0, 1)] == [43, 82]


def test_sources_come_from_every_cluster_in_proportion() -> None:
    """Two far clumps of 30 and 10 wrong images: k-means finds them, 20% of 40 is 8 = 6 + 2."""
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(100, 5))
    features_ND[30:40] += 100
    logits_NC = np.array([[0.0, 1.0]] * 40 + [[1.0, 0.0]] * 20 + [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    scores = score_table([0] * 60 + [1] * 40, logits_NC, features_ND=features_ND)
    plan = select(ScgsConfig(sample_fraction=0.2), scores, dataset=dataset(), run_seed=0).to_pylist()
    clusters = {row["image_id"]: row["cluster"] for row in plan if row["target_label"] == 0}
    clump = {image_id: image_id >= "img00030" for image_id in clusters}
    assert Counter(clump.values()) == {False: 6, True: 2}
    assert len({(clusters[i], clump[i]) for i in clusters}) == 2


def test_plan_does_not_depend_on_the_order_of_rows_or_on_failed_ones_but_on_the_seed() -> None:
    scores = wrong_and_right((20, 30), (60, 40))
    plan = select(ScgsConfig(), scores, dataset=dataset(), run_seed=1)
    for seed in range(3):
        other = with_failed_rows(shuffled(scores, seed=seed), ["a", "zz"])
        assert select(ScgsConfig(), other, dataset=dataset(), run_seed=1).equals(plan)
    assert not select(ScgsConfig(), scores, dataset=dataset(), run_seed=2).equals(plan)


def test_ratio_can_count_misclassified_images_instead() -> None:
    scores = wrong_and_right((20, 30, 10), (60, 40, 50))
    config = ScgsConfig(gen_ratio=0.5, gen_ratio_base="mis_other")
    plan = select(config, scores, dataset=dataset(3), run_seed=0)
    assert Counter(plan["target_label"].to_pylist()) == {0: 20, 1: 15, 2: 25}


@pytest.mark.parametrize("num_wrong", [0, 1])
def test_class_with_fewer_than_two_misclassified_images_is_named_with_a_way_out(num_wrong: int) -> None:
    scores = wrong_and_right((20, num_wrong), (10, 10))
    with pytest.raises(DataError, match=rf"'dog'\) has {num_wrong} misclassified.*mis_epoch"):
        select(ScgsConfig(), scores, dataset=dataset(), run_seed=0)


def test_two_identical_misclassified_images_are_enough() -> None:
    scores = score_table([0, 0, 1, 1], [[0, 1], [0, 1], [1, 0], [1, 0]], features_ND=np.ones((4, 3)))
    plan = select(ScgsConfig(gen_ratio=1), scores, dataset=dataset(), run_seed=0)
    assert Counter(plan["target_label"].to_pylist()) == {0: 2, 1: 2}


def test_a_ratio_that_rounds_to_no_picture_is_named() -> None:
    with pytest.raises(DataError, match=r"gen_ratio 0\.005 of 70 images .*nothing to generate\. Raise it"):
        select(ScgsConfig(gen_ratio=0.005), wrong_and_right((20, 30), (10, 40)), dataset=dataset(), run_seed=0)


def test_nothing_is_pruned() -> None:
    empty = wrong_and_right((2, 2), (1, 1))
    assert thresholds(ScgsConfig(), empty, empty) == PruneThresholds()


def test_clusters_are_a_number_or_one_for_each_class() -> None:
    assert clusters_per_class(3, num_classes=2) == [3, 3]
    assert clusters_per_class((1, 4), num_classes=2) == [1, 4]
    with pytest.raises(ConfigError, match="num_clusters has 3 entries, but the dataset has 2 classes"):
        select(ScgsConfig(num_clusters=(1, 2, 3)), wrong_scores(), dataset=dataset(), run_seed=0)


def test_each_class_is_cut_into_its_own_number_of_clusters() -> None:
    plan = select(ScgsConfig(num_clusters=(1, 4), sample_fraction=1.0), wrong_scores(), dataset=dataset(), run_seed=0)
    found: dict[int, set[int]] = {label: set() for label in (0, 1)}
    for row in plan.to_pylist():
        found[row["source_label"]].add(row["cluster"])
    assert found == {0: {0}, 1: {0, 1, 2, 3}}


@pytest.mark.parametrize(("source", "advice"), [("epoch", "synthesis.mis_source=kfold"), ("kfold", "fewer epochs")])
def test_too_few_mistakes_say_what_to_try(source: Any, advice: str) -> None:
    right = score_table([0, 0, 1, 1], [[1, 0], [1, 0], [0, 1], [0, 1]])
    with pytest.raises(DataError, match=advice):
        select(ScgsConfig(mis_source=source), right, dataset=dataset(), run_seed=0)


def wrong_scores() -> Any:
    """Twenty images of each class, all wrong, with features in four corners."""
    corners = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], dtype=float)
    features_ND = np.tile(corners, (10, 1)) + np.random.default_rng(0).normal(size=(40, 2))
    labels = [0] * 20 + [1] * 20
    logits_NC = [[0.0, 1.0]] * 20 + [[1.0, 0.0]] * 20
    return score_table(labels, logits_NC, features_ND=features_ND)


def looked_at(scores: pa.Table, repaint_N: Sequence[float | None]) -> pa.Table:
    """Scores with what masks leave of each image, as the run adds it."""
    return scores.append_column("repaint_fraction", pa.array(repaint_N, pa.float32()))


def pictures_of(scores: pa.Table, **fields: Any) -> Counter[str]:
    """Pictures of each source of class 0."""
    config = ScgsConfig.model_validate({"sample_fraction": 0.2, **fields})
    plan = select(config, scores, dataset=dataset(), run_seed=0).to_pylist()
    assert len({row["key"] for row in plan}) == len(plan)
    of_class = [row for row in plan if row["target_label"] == 0]
    for image_id, num in Counter(row["image_id"] for row in of_class).items():
        assert sorted(row["sample"] for row in of_class if row["image_id"] == image_id) == list(range(num))
    return Counter(row["image_id"] for row in of_class)


def two_clumps() -> pa.Table:
    """Of class 0, 20 images of one clump and 10 of another are wrong; a fifth of them are 4 and 2 sources."""
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(120, 5))
    features_ND[20:30] += 100
    logits_NC = np.array([[0.0, 1.0]] * 30 + [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 70)
    return score_table([0] * 40 + [1] * 80, logits_NC, features_ND=features_ND)


FIRST = {f"img{n:05d}" for n in range(20)}


@pytest.mark.parametrize("fields", [{}, {"gen_ratio_base": "equal"}, {"min_kept_fraction": 0.1}])
def test_where_every_map_leaves_something_looking_changes_nothing(fields: dict[str, Any]) -> None:
    scores = two_clumps()
    plans = [
        select(ScgsConfig(sample_fraction=0.2, **fields), table, dataset=dataset(), run_seed=0)
        for table in (scores, looked_at(scores, [0.9] * 120))
    ]
    assert plans[0].equals(plans[1])


def test_the_share_of_an_image_with_an_empty_map_goes_to_others_of_its_cluster() -> None:
    scores, repaint_N = two_clumps(), [0.9] * 120
    before = pictures_of(looked_at(scores, repaint_N), gen_ratio=0.3)
    assert before.total() == 24  # 0.3 of the 80 images of the other class, over six sources
    assert (len(before), len(before.keys() & FIRST)) == (6, 4)
    lost = sorted(before.keys() & FIRST)[1]
    lost_N = [None if f"img{n:05d}" == lost else x for n, x in enumerate(repaint_N)]
    after = pictures_of(looked_at(scores, lost_N), gen_ratio=0.3)
    assert (len(after), len(after.keys() & FIRST)) == (6, 4)
    assert before.keys() - {lost} < after.keys()  # and one that was drawn after them
    # Of the second clump all but one are lost: it has the places of both, a third of the pictures.
    one = "img00025"
    kept_N = [None if n in range(20, 30) and f"img{n:05d}" != one else x for n, x in enumerate(repaint_N)]
    alone = pictures_of(looked_at(scores, kept_N), gen_ratio=0.3)
    assert (len(alone), alone[one]) == (5, 8)
    assert {alone[i] for i in alone.keys() & FIRST} == {4}
    # Of a cluster without any there is nothing; the other has all pictures.
    kept_N = [None if n in range(20, 30) else x for n, x in enumerate(repaint_N)]
    none = pictures_of(looked_at(scores, kept_N), gen_ratio=0.3)
    assert sorted(none.values()) == [6] * 4


def test_where_all_are_sources_the_share_of_one_that_is_lost_is_spread_over_its_cluster() -> None:
    """240 pictures of thirty sources are eight each."""
    repaint_N = [None if n == 3 else 0.9 for n in range(120)]
    found = pictures_of(looked_at(two_clumps(), repaint_N), gen_ratio=3, sample_fraction=1)
    assert found.total() == 240
    assert Counter(found[i] for i in found.keys() & FIRST) == {9: 8, 8: 11}
    assert {found[i] for i in found.keys() - FIRST} == {8}
    fewer = pictures_of(looked_at(two_clumps(), repaint_N), gen_ratio=2, sample_fraction=1)
    assert all(found[image_id] >= num for image_id, num in fewer.items())


def test_an_image_of_which_too_little_is_kept_is_no_source() -> None:
    scores = two_clumps()
    repaint_N = [0.98 if n % 2 else 0.94 for n in range(120)]
    assert any(int(i[-1]) % 2 for i in pictures_of(looked_at(scores, repaint_N), sample_fraction=1))
    sources = pictures_of(looked_at(scores, repaint_N), sample_fraction=1, min_kept_fraction=0.05)
    assert {int(i[-1]) % 2 for i in sources} == {0}
    assert sources.total() == 32


def test_a_class_of_empty_maps_is_an_error_that_says_what_to_do() -> None:
    scores = looked_at(two_clumps(), [None] * 30 + [0.9] * 90)
    with pytest.raises(DataError, match=r"class 0 \('cat'\) has 30 misclassified .* leaves nothing .*synthesis\.top_q"):
        select(ScgsConfig(), scores, dataset=dataset(), run_seed=0)


def test_the_misclassified_are_looked_at_where_a_map_may_be_empty_or_too_small() -> None:
    scores = with_failed_rows(two_clumps(), ["damaged"])
    looked = ScgsConfig().looks_at(scores)
    assert looked is not None
    assert looked["image_id"].to_pylist() == [f"img{n:05d}" for n in (*range(30), *range(40, 50))]
    assert ScgsConfig(cam="none").looks_at(scores) is None
    assert ScgsConfig(top_q=0.1).looks_at(scores) is None
    assert ScgsConfig(top_q=0.1, min_kept_fraction=0.1).looks_at(scores) is not None
