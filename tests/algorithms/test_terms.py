"""Terms of the loss: closed forms, torch's own, and slow loops."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from extra_sets import extra_of

from raygen import algorithms
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.feed import Terms
from raygen.algorithms.inference import right_predictions
from raygen.algorithms.infilling import Draws
from raygen.algorithms.jtt import JttConfig
from raygen.algorithms.loop import mean_weights
from raygen.algorithms.mixing import Mixed, label_shares, mix_batches, mix_inputs
from raygen.algorithms.pictures import InMemory
from raygen.algorithms.steps import Network, Stepper
from raygen.algorithms.terms import not_label_losses, row_losses, saliency_sum
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.classifier.fgsm import fgsm, random_starts
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError
from raygen.inpainters.fills import Infilling, tiled
from raygen.worker import Numerics, Worker


def linear(num_classes: int = 3, *, size_px: int = 16, seed: int = 0) -> Classifier:
    """Logits that are linear in the pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = ClassifierConfig(image_size_px=size_px)
        return Classifier(config, torch.nn.Flatten(), num_features=3 * size_px**2, num_classes=num_classes)


@pytest.mark.parametrize(("num_classes", "expected"), [(3, 0.405465), (9, 0.117783), (15, 0.068993)])
def test_not_the_label_at_uniform_logits(num_classes: int, expected: float) -> None:
    logits_BC, target_B = torch.full((2, num_classes), 0.7), torch.tensor([0, 2])
    exact_B = not_label_losses(logits_BC, target_B, kind="exact")
    assert exact_B.tolist() == pytest.approx([expected] * 2, abs=1e-6)
    for kind in ("uniform", "uniform_except"):
        found_B = not_label_losses(logits_BC, target_B, kind=kind)
        assert found_B.tolist() == pytest.approx([math.log(num_classes)] * 2, rel=1e-6)


def test_not_the_label_is_minus_the_log_of_one_minus_its_probability() -> None:
    logits_BC = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    target_B = torch.tensor([0, 1, 2, 3, 4, 0])
    p_BC = logits_BC.double().softmax(1)
    rows = range(6)
    expected = [-math.log(1 - p_BC[i, target_B[i]].item()) for i in rows]
    assert not_label_losses(logits_BC, target_B, kind="exact").tolist() == pytest.approx(expected, rel=1e-5)
    found_B = not_label_losses(logits_BC, target_B, kind="uniform")
    assert found_B.tolist() == pytest.approx([-p_BC[i].log().mean().item() for i in rows], rel=1e-5)
    found_B = not_label_losses(logits_BC, target_B, kind="uniform_except")
    others = [sum(-math.log(p_BC[i, c].item()) / 4 for c in range(5) if c != target_B[i]) for i in rows]
    assert found_B.tolist() == pytest.approx(others, rel=1e-5)


def test_with_two_classes_not_the_label_is_the_other_one() -> None:
    logits_BC, target_B = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    expected_B = F.cross_entropy(logits_BC, 1 - target_B, reduction="none")
    for kind in ("exact", "uniform_except"):
        torch.testing.assert_close(not_label_losses(logits_BC, target_B, kind=kind), expected_B)


def test_a_label_that_is_sure_is_pushed_away_from_however_sure() -> None:
    """log(1 - p + 1e-20) is at most 46 and has no gradient there; p is 1 in float32 from a logit of 17 on."""
    logits_BC = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = not_label_losses(logits_BC, torch.tensor([0]), kind="exact").sum()
    loss.backward()
    assert loss.item() == pytest.approx(200 - math.log(2), abs=1e-4)  # 199.3
    assert logits_BC.grad is not None
    assert logits_BC.grad[0].tolist() == pytest.approx([1, -0.5, -0.5])


def test_rows_have_the_loss_of_their_role_and_smoothing_is_torchs() -> None:
    logits_BC, target_B = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 2, 3, 1, 2]),
    )
    role_B = torch.tensor([True, False, True, False, False, True])
    found_B = row_losses(logits_BC, target_B, counterfactual_B=role_B)
    plain_B = F.cross_entropy(logits_BC, target_B, reduction="none")
    assert torch.equal(found_B[~role_B], plain_B[~role_B])
    assert torch.equal(found_B[role_B], not_label_losses(logits_BC, target_B, kind="exact")[role_B])
    assert torch.equal(row_losses(logits_BC, target_B, smoothing=0.0), plain_B)
    smooth = row_losses(logits_BC, target_B, smoothing=0.1).mean()
    torch.testing.assert_close(smooth, torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits_BC, target_B))
    by_hand = (0.9 * plain_B - 0.1 * logits_BC.log_softmax(1).mean(1)).mean()
    torch.testing.assert_close(smooth, by_hand)


def test_the_saliency_penalty_of_a_linear_model_is_the_mean_of_its_squared_weights_outside() -> None:
    classifier, rng = linear(), np.random.default_rng(0)
    target_B = torch.tensor([2, 0, 1, 2])
    object_BSS = torch.from_numpy(rng.random((4, 16, 16)) < 0.3)
    object_BSS[3] = False  # no mask
    inputs_BCSS = torch.rand(4, 3, 16, 16, requires_grad=True)
    found = saliency_sum(classifier(inputs_BCSS), target_B, inputs_BCSS, object_BSS)
    weight_KCSS = (classifier.head.weight.view(3, 3, 16, 16) / classifier.std_C11).detach()
    expected = sum(float(((weight_KCSS[target_B[i]] * ~object_BSS[i]) ** 2).mean()) for i in range(3))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert classifier.head.weight.grad is not None  # its own derivative reaches the weights
    assert classifier.head.weight.grad.abs().sum() > 0


def test_the_saliency_of_a_row_is_that_of_its_own_label() -> None:
    """Not of all labels of the batch: with a non-linear model each row by itself gives the same."""
    classifier = build_classifier(ClassifierConfig(image_size_px=16, width=8), 3, seed=0).eval()
    inputs_BCSS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target_B, object_BSS = torch.tensor([0, 2, 2]), torch.zeros(3, 16, 16, dtype=torch.bool)
    object_BSS[:, 4:9, 5:10] = True

    def penalty(rows: slice) -> float:
        own = inputs_BCSS[rows].clone().requires_grad_()
        return saliency_sum(classifier(own), target_B[rows], own, object_BSS[rows]).item()

    assert penalty(slice(0, 3)) == pytest.approx(sum(penalty(slice(i, i + 1)) for i in range(3)), rel=1e-4)


def test_a_share_of_one_mixes_nothing_and_one_is_drawn_for_a_batch() -> None:
    inputs_BCSS, share_B = torch.rand(6, 3, 2, 2), torch.ones(3)
    assert torch.equal(mix_inputs(inputs_BCSS, share_B, None), inputs_BCSS[:3])
    assert label_shares(share_B).tolist() == [2, 2, 2, 0, 0, 0]
    batches = mix_batches([np.arange(4, 10)] * 2000, 0.2, np.random.default_rng(0))
    shares = np.array([batch.share_B[0] for batch in batches])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)) = 0.17857.
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(0.17857, abs=0.01)
    for batch in batches:
        assert len({*batch.share_B.tolist()}) == 1
        assert batch.first_B.tolist() == sorted(batch.second_B.tolist()) == [*range(4, 10)]
    assert len({tuple(batch.second_B.tolist()) for batch in batches}) > 500


def test_fgsm_moves_each_picture_by_its_own_gradient_and_at_most_by_epsilon() -> None:
    epsilon, classifier = 0.1, linear()
    images_BCSS = (
        torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    )  # clamping [0, 1] idle
    target_B, start_BCSS = torch.tensor([0, 1, 2, 2]), random_starts([3, 4, 5, 6], 16, epsilon=epsilon)
    classifier.train()
    found_BCSS = fgsm(classifier, images_BCSS, target_B, start_BCSS, epsilon=epsilon)
    assert classifier.training
    assert all(parameter.grad is None for parameter in classifier.parameters())
    change_BCSS = found_BCSS - images_BCSS
    # A step of 1.25 epsilon from within epsilon: at least a quarter of it, five eighths of all at the bound.
    assert change_BCSS.abs().max() <= epsilon + 1e-6
    assert change_BCSS.abs().min() >= 0.25 * epsilon - 1e-6
    assert (change_BCSS.abs() > epsilon - 1e-6).float().mean().item() == pytest.approx(0.625, abs=0.03)
    for i in range(4):  # by hand: sum_c (p_c - [c = y]) W_c
        p_C = classifier((images_BCSS + start_BCSS)[i : i + 1])[0].softmax(0).detach()
        p_C[target_B[i]] -= 1
        gradient_CSS = (p_C @ classifier.head.weight.detach()).view(3, 16, 16)
        assert torch.equal(change_BCSS[i].sign(), gradient_CSS.sign())
    # In evaluation mode a row does not depend on those beside it.
    network = build_classifier(ClassifierConfig(image_size_px=16, width=8), 3, seed=0)
    whole, part = (fgsm(network, images_BCSS[r], target_B[r], start_BCSS[r], epsilon=0.1) for r in (slice(4), slice(2)))
    torch.testing.assert_close(whole[:2], part)
    extremes = fgsm(classifier, images_BCSS.round(), target_B, start_BCSS, epsilon=epsilon)
    assert 0 <= extremes.min() <= extremes.max() <= 1
    assert start_BCSS.abs().max() <= epsilon
    assert torch.equal(start_BCSS[1:2], random_starts([4], 16, epsilon=epsilon))


# --- Whole steps. ---


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    """Pictures with object masks, of which every tenth is not there."""
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=16) for split in ("train", "val"))
    ids = index.split("train")["image_id"].to_pylist()
    masks_N = np.zeros((len(ids), 16, 16, 3), np.uint8)
    masks_N[:, 4:12, 5:11] = 255
    masks_N[::10] = 0
    return train.with_masks(InMemory(masks_N), ids), val


def infilling(**changes: Any) -> Infilling:
    fields: dict[str, Any] = {
        "counterfactual": None,
        "factual": None,
        "counterfactual_region": "box",
        "factual_region": "segmentation",
        "fgsm_epsilon": 0.3,
        "not_label": "exact",
    }
    return Infilling(**{**fields, **changes})


class Kept(torch.nn.Flatten):
    """Keeps what it sees in training."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = images_NCHW.detach().clone()
        return super().forward(images_NCHW)


def stepped(
    train: TrainingSet, folder: Path, terms: Terms, positions: np.ndarray, mixed: Mixed | None = None
) -> tuple[float, torch.Tensor, Any]:
    """The loss of a step without motion, what the network saw, and the classifier."""
    seen = Kept()
    config = ClassifierConfig(image_size_px=16)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        classifier = Classifier(config, seen, num_features=3 * 16 * 16, num_classes=2)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.0)
    still, worker = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), Worker(0, 1, "cpu", folder)
    network = Network(classifier, optimizer, still, worker)
    stepper = Stepper(network, train, mean_weights, worker, augment="none", terms=terms)
    batch = positions if mixed is None else mixed.positions
    loss, _ = stepper.epoch([batch], number=0, of=1, seed=0, mixed=None if mixed is None else [mixed])
    return loss, seen.seen * classifier.std_C11 + classifier.mean_C11, classifier


POSITIONS = np.arange(1, 13)  # image 10 has no mask


@pytest.mark.parametrize("factual", ["random", "shuffle", "mixed_rand", "fgsm"])
@pytest.mark.parametrize("counterfactual", ["grey", "random", "shuffle", "tile", "telea"])
def test_a_step_divides_by_all_rows_and_keeps_what_each_copy_has_to_keep(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path, counterfactual: Any, factual: Any
) -> None:
    train = sets[0].with_infilling(infilling(counterfactual=counterfactual, factual=factual))
    loss, seen_RCSS, classifier = stepped(train, tmp_path, Terms(), POSITIONS)
    own_BCSS, without_BCSS, alone_BCSS = seen_RCSS.split(len(POSITIONS))
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:12, 5:11] = False
    has_mask_B = torch.from_numpy(POSITIONS % 10 != 0)
    for changed, same, copies in ((~outside, outside, without_BCSS), (outside, ~outside, alone_BCSS)):
        torch.testing.assert_close(copies[..., same], own_BCSS[..., same], atol=1e-6, rtol=0)
        moved_B = (copies - own_BCSS).abs()[..., changed].flatten(1).amax(1) > 0.02
        assert torch.equal(moved_B, has_mask_B)
    logits_RC = classifier.eval()(seen_RCSS).detach()
    target_B = torch.from_numpy(train.label_N[POSITIONS])
    own, cf, f = logits_RC.split(len(POSITIONS))
    total = F.cross_entropy(own, target_B, reduction="sum")
    total = total + F.cross_entropy(cf[has_mask_B], 1 - target_B[has_mask_B], reduction="sum")
    total = total + F.cross_entropy(f[has_mask_B], target_B[has_mask_B], reduction="sum")
    assert loss == pytest.approx(float(total) / (12 + 11 + 11), rel=1e-4)


def test_what_a_copy_gets_depends_on_its_picture_epoch_and_seed_and_not_on_its_batch(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    train = sets[0].with_infilling(infilling(counterfactual="random", factual="mixed_rand"))
    _, together, _ = stepped(train, tmp_path, Terms(), POSITIONS)
    for place in (0, 5):
        _, alone, _ = stepped(train, tmp_path, Terms(), POSITIONS[place : place + 1])
        for copy in range(3):
            assert torch.equal(alone[copy], together[copy * 12 + place])
    assert not torch.equal(together[12], together[13])


def test_the_penalty_is_over_the_rows_with_a_mask(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    """A linear model's is the mean of its squared weights outside of the object, whatever the rows."""
    plain, _, classifier = stepped(sets[0], tmp_path, Terms(), POSITIONS)
    penalised, _, _ = stepped(sets[0], tmp_path, Terms(saliency_penalty=50.0), POSITIONS)
    outside = torch.ones(16, 16)
    outside[4:12, 5:11] = 0
    weight_KCSS = (classifier.head.weight.view(2, 3, 16, 16) / classifier.std_C11).detach()
    per_class = ((weight_KCSS * outside) ** 2).mean((1, 2, 3))
    labels = sets[0].label_N[[p for p in POSITIONS if p % 10]]
    assert penalised - plain == pytest.approx(50 * float(per_class[labels].mean()), rel=1e-3)
    # With copies beside them the penalty is still of the pictures themselves.
    filled = sets[0].with_infilling(infilling(counterfactual="grey"))
    with_copies = [stepped(filled, tmp_path, Terms(saliency_penalty=value), POSITIONS)[0] for value in (0.0, 50.0)]
    assert with_copies[1] - with_copies[0] == pytest.approx(penalised - plain, rel=1e-3)
    # No row with a mask: no penalty, and a number.
    for value in (0.0, 50.0):
        assert stepped(sets[0], tmp_path, Terms(saliency_penalty=value), np.array([10, 20]))[0] == pytest.approx(
            stepped(sets[0], tmp_path, Terms(), np.array([10, 20]))[0], rel=1e-5
        )


def test_mixup_mixes_pictures_and_losses_by_one_share(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    train, label_N = sets[0], torch.from_numpy(sets[0].label_N)
    second_B = POSITIONS[::-1].copy()
    pairs = Mixed(POSITIONS, second_B, np.full(12, 0.7))
    _, own_BCSS, _ = stepped(train, tmp_path, Terms(), POSITIONS)
    loss, seen_BCSS, classifier = stepped(train, tmp_path, Terms(), POSITIONS, pairs)
    torch.testing.assert_close(seen_BCSS, 0.7 * own_BCSS + 0.3 * own_BCSS.flip(0), atol=1e-5, rtol=0)
    logits_BC = classifier.eval()(seen_BCSS).detach()
    losses = [F.cross_entropy(logits_BC, label_N[positions]).item() for positions in (POSITIONS, second_B)]
    assert loss == pytest.approx(0.7 * losses[0] + 0.3 * losses[1], rel=1e-5)
    smooth, _, _ = stepped(train, tmp_path, Terms(label_smoothing=0.2), POSITIONS, pairs)
    losses = [
        F.cross_entropy(logits_BC, label_N[positions], label_smoothing=0.2).item()
        for positions in (POSITIONS, second_B)
    ]
    assert smooth == pytest.approx(0.7 * losses[0] + 0.3 * losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value"), [("mixup_alpha", 0.2), ("label_smoothing", 0.1), ("saliency_penalty", 5.0)]
)
def test_a_fit_has_the_terms_of_its_config(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path, field: str, value: float
) -> None:
    weights = []
    for number, fields in enumerate(({}, {field: value}, {field: value})):
        classifier, folder = linear(2), tmp_path / str(number)
        folder.mkdir()
        config = ErmConfig(epochs=1, learning_rate=0.01, select="last", **fields)
        algorithms.of(config).fit(config, classifier, *sets, seed=0, worker=Worker(0, 1, "cpu", folder))
        weights.append(classifier.head.weight.detach().clone())
    assert torch.isfinite(weights[1]).all()
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_a_counterfactual_picture_is_right_when_its_label_is_not_predicted(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    from dataclasses import replace

    extra = extra_of(np.full((4, 16, 16, 3), 128, np.uint8), [0, 1, 0, 1])
    extra = replace(extra, counterfactual_M=np.array([True, True, False, False]))
    train = sets[0].with_extra(extra)
    classifier = linear(2)
    right_N = right_predictions(classifier, train, Worker(0, 1, "cpu", tmp_path))[-4:]
    grey = classifier.eval()(torch.full((1, 3, 16, 16), 128 / 255)).argmax().item()
    assert right_N.tolist() == [grey != 0, grey != 1, grey == 0, grey == 1]
    # Their loss is of "not y", and adaptive weights are told so.
    loss, seen_RCSS, classifier = stepped(train, tmp_path, Terms(), np.arange(156, 164))
    logits_RC, target_R = classifier.eval()(seen_RCSS).detach(), torch.from_numpy(train.label_N[156:164])
    asked_R = torch.where(torch.from_numpy(train.counterfactual_N[156:164]), 1 - target_R, target_R)
    assert loss == pytest.approx(float(F.cross_entropy(logits_RC, asked_R)), rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"saliency_penalty": 1.0, "mixup_alpha": 0.2}, "saliency_penalty and mixup_alpha are both set"),
        ({"saliency_penalty": 1.0, "label_smoothing": 0.1}, "saliency_penalty and label_smoothing are both set"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"saliency_penalty": -1.0}, "greater than or equal to 0"),
    ],
)
def test_terms_that_exclude_each_other_are_refused(fields: dict[str, float], message: str) -> None:
    for config in (ErmConfig, JttConfig):
        with pytest.raises(ValueError, match=message):
            config(**fields)


def test_what_a_fit_cannot_do_is_refused_before_a_step(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    def fit(config: ErmConfig, train: TrainingSet, **where: Any) -> None:
        algorithms.of(config).fit(
            config, linear(2), train, sets[1], seed=0, worker=Worker(0, 1, "cpu", tmp_path, **where)
        )

    penalty, both = ErmConfig(saliency_penalty=1.0), sets[0].with_infilling(infilling(factual="random"))
    with pytest.raises(ConfigError, match=r"fit\.precision is bfloat16, in which they vanish"):
        fit(penalty, sets[0], numerics=Numerics("bfloat16"))
    with pytest.raises(ConfigError, match=r"fit\.compile=false"):
        fit(penalty, sets[0], numerics=Numerics(compile=True))
    for name in ("mixup_alpha", "label_smoothing"):
        with pytest.raises(ConfigError, match=f"algorithm.{name} is 0.5, and excludes counterfactual"):
            fit(ErmConfig(**{name: 0.5}), both)
    with pytest.raises(DataError, match="need object masks, and the training set has none"):
        fit(penalty, sets[1])
    assert not (tmp_path / "checkpoint.pt").exists()


def test_backgrounds_of_another_class_need_another_class(scenes_folder: Path) -> None:
    index = RowIndex(scenes_folder)
    of_one = index.split("train")["label"].to_numpy() == 0
    train = TrainingSet(index, "train", size_px=16, keep_N=of_one)
    with pytest.raises(DataError, match="all training images are of one"):
        train.with_infilling(infilling(factual="mixed_rand"))
    train.with_infilling(infilling(factual="shuffle"))


def test_a_mixed_background_is_of_a_picture_of_another_class(sets: tuple[TrainingSet, TrainingSet]) -> None:
    train = sets[0].with_infilling(infilling(factual="mixed_rand"))
    wanted = np.array([1, 2, 3, 4])
    (rows_RTTC,) = train.copies([Draws(wanted, np.arange(4))])
    (pictures_NTTC,) = train.batches([np.arange(len(train))])
    object_HW = np.zeros((16, 16), bool)
    object_HW[4:12, 5:11] = True
    tiles = [tiled(picture, object_HW) for picture in pictures_NTTC.numpy()]
    for i, position in enumerate(wanted.tolist()):
        found = rows_RTTC[4 + i, ..., :3].numpy()[~object_HW]
        labels = {int(train.label_N[n]) for n, tile in enumerate(tiles) if np.array_equal(found, tile[~object_HW])}
        assert labels == {1 - int(train.label_N[position])}
