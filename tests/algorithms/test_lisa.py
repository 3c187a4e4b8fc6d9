"""LISA: which pairs it draws, and what a mixed picture and its loss are."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from raygen import algorithms
from raygen.algorithms.lisa import LisaConfig, SelectiveMixing, cutmix_box, group_pairs, share_outside
from raygen.algorithms.loop import mean_weights
from raygen.algorithms.mixing import Mixed, label_shares, mix_inputs
from raygen.algorithms.steps import Network, Stepper
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.worker import Worker


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index = RowIndex(scenes_folder)
    return TrainingSet(index, "train", size_px=16), TrainingSet(index, "val", size_px=16)


def fit(config: LisaConfig, sets: tuple[TrainingSet, TrainingSet], folder: Path) -> Classifier:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    classifier = build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0)
    algorithms.of(config).fit(config, classifier, *sets, seed=0, worker=Worker(0, 1, "cpu", folder))
    return classifier


def equal(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_loss_of_a_mixed_picture_is_its_soft_cross_entropy() -> None:
    """z = (1, -1), share 0.3 of label 0: 1.526928."""
    share_B = torch.tensor([0.3], dtype=torch.float64)
    logits_BC = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    losses_2B = F.cross_entropy(torch.cat([logits_BC, logits_BC]), torch.tensor([0, 1]), reduction="none")
    assert float((losses_2B * label_shares(share_B)).mean()) == pytest.approx(1.526928, abs=5e-7)
    soft = F.cross_entropy(logits_BC, torch.tensor([[0.3, 0.7]], dtype=torch.float64))
    assert float((losses_2B * label_shares(share_B)).mean()) == pytest.approx(float(soft))


@pytest.mark.parametrize(("alpha", "variance"), [(2.0, 0.05), (0.2, 0.17857)])
def test_shares_are_drawn_from_beta(alpha: float, variance: float) -> None:
    config = LisaConfig(mixup_alpha=alpha)
    mixing = SelectiveMixing(np.repeat(np.arange(4), 10), config, num_attributes=2, size_px=16)
    (batch,) = mixing.draw([20000], np.random.default_rng(0))
    assert float(batch.share_B.var()) == pytest.approx(variance, rel=0.03)  # of 20,000: three standard errors
    assert stats.kstest(batch.share_B, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("share", "middle", "box", "left"),
    [
        (0.75, (112, 112), (56, 56, 112, 112), 0.75),
        (0.3, (112, 112), (19, 19, 186, 186), 0.310507),  # side 187, and half of it, 93, each way
        (0.75, (0, 223), (0, 167, 56, 57), 1 - 56 * 57 / 224**2),  # cut off at two edges
        (1.0, (5, 5), (5, 5, 0, 0), 1.0),
    ],
)
def test_cutmix_box(share: float, middle: tuple[int, int], box: tuple[int, ...], left: float) -> None:
    found = cutmix_box(share, row=middle[0], column=middle[1], size_px=224)
    assert found == box
    assert share_outside(found, size_px=224) == pytest.approx(left, abs=5e-7)


def test_pictures_are_mixed_as_they_should() -> None:
    inputs_NCSS = torch.rand(4, 3, 6, 6)
    mixed = mix_inputs(inputs_NCSS, torch.tensor([0.25, 1.0]), None)
    torch.testing.assert_close(mixed[0], 0.25 * inputs_NCSS[0] + 0.75 * inputs_NCSS[2])
    torch.testing.assert_close(mixed[1], inputs_NCSS[1])
    cut = mix_inputs(inputs_NCSS, torch.tensor([0.5, 0.5]), (1, 2, 3, 4))
    for row in range(6):
        for column in range(6):
            inside = 1 <= row < 4 and 2 <= column < 6
            expected = inputs_NCSS[2:] if inside else inputs_NCSS[:2]
            torch.testing.assert_close(cut[..., row, column], expected[..., row, column])


@pytest.mark.parametrize("intra_label", [0.0, 1.0])
def test_pairs_share_a_label_or_an_attribute_and_never_both(intra_label: float) -> None:
    """Three classes and three attributes; the smallest group is drawn as often as any other."""
    group_N = np.repeat([0, 1, 4, 5, 8, 6, -1], [50, 3, 40, 2, 60, 5, 7])
    mixing = SelectiveMixing(group_N, LisaConfig(intra_label=intra_label), num_attributes=3, size_px=16)
    batches = mixing.draw([32] * 200, np.random.default_rng(0))
    first_M, second_M = (
        group_N[np.concatenate(part)] for part in zip(*((b.first_B, b.second_B) for b in batches), strict=True)
    )
    assert min(first_M.min(), second_M.min()) >= 0
    same_label_M, same_attribute_M = first_M // 3 == second_M // 3, first_M % 3 == second_M % 3
    assert (same_label_M if intra_label else same_attribute_M).all()
    assert not (same_label_M & same_attribute_M).any()
    pairs, counts = np.unique(np.stack([first_M, second_M]), axis=1, return_counts=True)
    # Ordered pairs of the groups 0, 1 | 4, 5 | 6, 8 (labels 0, 1, 2; attributes 0, 1 | 1, 2 | 0, 2).
    expected = {0: [(0, 6), (1, 4), (5, 8)], 1: [(0, 1), (4, 5), (6, 8)]}[int(intra_label)]
    assert {tuple(pair) for pair in pairs.T.tolist()} == {*expected, *(pair[::-1] for pair in expected)}
    assert counts.min() > 0.8 * counts.max()


def test_without_pairs_of_one_kind_the_other_is_taken_and_without_any_it_is_refused(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    assert [*group_pairs(np.array([0, 1]), num_attributes=2)] == ["intra_label"]
    mixing = SelectiveMixing(np.repeat([0, 1], 4), LisaConfig(intra_label=0.0), num_attributes=2, size_px=16)
    assert len(mixing.draw([4], np.random.default_rng(0))[0].first_B) == 4
    train, val = sets
    for groups in ([0, 3], [3]):  # perfectly confounded; one group alone
        confounded = copy.copy(train)
        confounded.group_N = np.resize(groups, len(train))
        with pytest.raises(DataError, match="has a class and an attribute of its own"):
            fit(LisaConfig(), (confounded, val), tmp_path)
        with pytest.raises(DataError, match="algorithm lisa mixes"):
            LisaConfig().check_groups(np.bincount(groups, minlength=4).reshape(2, 2))
    LisaConfig().check_groups(np.array([[3, 1], [0, 5]]))
    without = copy.copy(train)
    without.group_N = None
    with pytest.raises(DataError, match="algorithm lisa needs the attribute"):
        fit(LisaConfig(), (without, val), tmp_path)


def test_a_step_is_that_of_the_mixed_pictures_and_their_soft_labels(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """Against torch's own cross entropy on pictures that are mixed by hand."""
    train, _ = sets
    first_B, second_B, share_B = np.array([0, 5, 9]), np.array([3, 7, 2]), np.array([0.2, 0.9, 0.5])
    classifiers = [build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0) for _ in range(2)]
    optimizers = [torch.optim.SGD(classifier.parameters(), lr=0.1) for classifier in classifiers]
    worker = Worker(0, 1, "cpu", tmp_path)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizers[0], factor=1.0)
    network = Network(classifiers[0], optimizers[0], scheduler, worker)
    stepper = Stepper(network, train, mean_weights, worker, augment="none")
    batch = Mixed(first_B, second_B, share_B)
    loss, _ = stepper.epoch([batch.positions], number=0, of=1, seed=0, mixed=[batch])

    (images_NHWC,) = train.batches([batch.positions])
    one, other = (images_NHWC.permute(0, 3, 1, 2).float() / 255).chunk(2)
    share = torch.from_numpy(share_B).float()
    mixed_BCHW = share.view(-1, 1, 1, 1) * one + (1 - share.view(-1, 1, 1, 1)) * other
    hot = F.one_hot(torch.from_numpy(train.label_N), 2).float()
    soft = share[:, None] * hot[first_B] + (1 - share[:, None]) * hot[second_B]
    expected = F.cross_entropy(classifiers[1].train()(mixed_BCHW), soft)
    expected.backward()
    optimizers[1].step()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(classifiers[0].parameters(), classifiers[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_fit_that_goes_on_from_a_checkpoint_ends_the_same(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    def config(epochs: int) -> LisaConfig:
        return LisaConfig(epochs=epochs, operation="cutmix", schedule="constant", select="last")

    whole = fit(config(2), sets, tmp_path / "whole")
    fit(config(1), sets, tmp_path / "parts")
    assert equal(whole, fit(config(2), sets, tmp_path / "parts"))
