"""Learning a token: against diffusers' way of doing it, and what may not change it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInpaintPipeline
from tiny_pipelines import save_pipeline

from raygen.datasets.scene_rendering import render_scene
from raygen.errors import DataError, ModelError, ResourceError, StageError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import find_painter
from raygen.maskers.truth import dilate
from raygen.seeding import row_seed
from raygen.textual_inversion.class_tokens import ClassToken, trained_model
from raygen.textual_inversion.config import TextualInversionConfig
from raygen.textual_inversion.learning import FrozenDenoiser, Learned, TokenPicture, learn_tokens
from raygen.worker import Worker

SIDE, SEED = 32, 7
TOKEN = ClassToken("<bird-1>", "bird", "b")
SETTINGS = TextualInversionConfig(num_steps=4, batch_size=3, learning_rate=0.05, log_every=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """4 and 9 channels that predict noise, and 9 that predict velocity."""
    root = tmp_path_factory.mktemp("models")
    models = {str(c): save_pipeline(root / str(c), in_channels=c) for c in (4, 9)}
    models["9v"] = save_pipeline(root / "9v")
    path = models["9v"] / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    return models


def load(folder: Path, settings: TextualInversionConfig = SETTINGS) -> FrozenDenoiser:
    return FrozenDenoiser(find_painter(trained_model(settings, InpainterConfig(model=str(folder)))), device="cpu")


def pictures(num: int = 5, *, whole: bool = True) -> list[TokenPicture]:
    rng = np.random.default_rng(1)
    region_HW = np.ones((SIDE, SIDE), dtype=bool)
    if not whole:
        region_HW[:, SIDE // 2 :] = False
    return [
        TokenPicture(f"i{i}", rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8), region_HW) for i in range(num)
    ]


def learn(
    denoiser: FrozenDenoiser,
    folder: Path,
    images: Sequence[TokenPicture] | None = None,
    settings: TextualInversionConfig = SETTINGS,
    *,
    seed: int = SEED,
) -> Learned:
    folder.mkdir(exist_ok=True)
    worker = Worker(0, 1, "cpu", folder)
    tokens = [(TOKEN, pictures() if images is None else images)]
    return learn_tokens(denoiser, tokens, settings, seed=seed, worker=worker)[TOKEN.name]


def as_diffusers_learns(
    folder: Path, images: Sequence[TokenPicture], settings: TextualInversionConfig
) -> tuple[torch.Tensor, list[float]]:
    """diffusers' training loop: the token is in tokenizer and table, the table is trained, its other rows put back."""
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipe.tokenizer.add_tokens(TOKEN.name)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    table = pipe.text_encoder.get_input_embeddings().weight
    own, first = (pipe.tokenizer.convert_tokens_to_ids(name) for name in (TOKEN.name, "b</w>"))
    table.data[own] = table.data[first]
    frozen = table.data.clone()
    optimizer = torch.optim.AdamW([table], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    noise_schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    losses = []
    for step in range(settings.num_steps):
        loss = torch.zeros(())
        for row in range(settings.batch_size):
            key = f"textual_inversion/{TOKEN.name}/{step}/{row}"
            generator = torch.Generator().manual_seed(row_seed(SEED, key))
            picture = images[int(torch.randint(len(images), (1,), generator=generator))]
            template = settings.all_templates[
                int(torch.randint(len(settings.all_templates), (1,), generator=generator))
            ]
            flipped = bool(torch.rand(1, generator=generator) < settings.flip_fraction)
            pixels = torch.from_numpy(picture.image_HWC.copy()).permute(2, 0, 1)[None] / 127.5 - 1
            mask = torch.from_numpy(picture.region_HW.copy())[None, None].float()
            if flipped:
                pixels, mask = pixels.flip(3), mask.flip(3)
            time = torch.randint(1000, (1,), generator=generator)
            scale = pipe.vae.config.scaling_factor
            with torch.no_grad():
                latent = pipe.vae.encode(pixels).latent_dist.sample(generator) * scale
                noise = torch.randn(latent.shape, generator=generator)
                inputs = noise_schedule.add_noise(latent, noise, time)
                small_mask = mask[:, :, ::4, ::4]  # the tiny autoencoder's stride
                if pipe.unet.config.in_channels == 9:
                    masked = pipe.vae.encode(pixels * (1 - mask)).latent_dist.sample(generator) * scale
                    inputs = torch.cat([inputs, small_mask, masked], dim=1)
            is_v = noise_schedule.config.prediction_type == "v_prediction"
            target = noise_schedule.get_velocity(latent, noise, time) if is_v else noise
            text = template.replace("{token}", TOKEN.name).replace("{word}", TOKEN.word)
            ids = pipe.tokenizer(text, padding="max_length", max_length=24, return_tensors="pt").input_ids
            assert own in ids
            predicted = pipe.unet(inputs, time, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample
            error = ((predicted - target) ** 2)[small_mask.expand_as(target) > 0].mean()
            loss = loss + error / settings.batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        table.data[:own] = frozen[:own]
        losses.append(float(loss.detach()))
    return table.data[own], losses


@pytest.mark.parametrize("model", ["4", "9", "9v"])
@pytest.mark.parametrize("whole", [True, False])
def test_the_vector_is_the_one_that_diffusers_script_learns(
    models: dict[str, Path], tmp_path: Path, model: str, whole: bool
) -> None:
    images = pictures(whole=whole)
    learned = learn(load(models[model]), tmp_path / "fit", images)
    expected_D, losses = as_diffusers_learns(models[model], images, SETTINGS)
    # Rows one by one there, in one call here: the gradients' last bits differ, and Adam's first steps depend on signs.
    assert torch.allclose(learned.vector[0], expected_D, atol=2e-3)
    assert [entry["step"] for entry in learned.history] == [2, 4]
    assert learned.history[0]["loss"] == pytest.approx(sum(losses[:2]) / 2, rel=1e-4)


def test_nothing_but_the_vector_moves_and_that_by_the_optimizer(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])
    parts = (denoiser.unet, denoiser.vae, denoiser.text_encoder)
    before = [value.clone() for part in parts for value in part.state_dict().values()]
    start = denoiser.initial_vector(TOKEN)
    one_step = SETTINGS.model_copy(update={"num_steps": 1, "weight_decay": 10.0})  # enough to be seen beside the rate
    learned = learn(denoiser, tmp_path / "fit", settings=one_step)
    after = [value for part in parts for value in part.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())
    assert TOKEN.name not in denoiser.tokenizer.get_vocab()
    # Adam's first step is the learning rate in each coordinate, whatever the gradient; AdamW shrinks the vector before.
    shrunk = start * (1 - one_step.learning_rate * one_step.weight_decay)
    moved = (learned.vector - shrunk).abs()
    assert torch.allclose(moved, torch.full_like(moved, SETTINGS.learning_rate), rtol=1e-2)


def test_the_same_seed_learns_the_same_and_another_does_not(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])
    first, again = (learn(denoiser, tmp_path / name).vector for name in ("first", "again"))
    assert torch.equal(first, again)
    assert not torch.equal(first, learn(denoiser, tmp_path / "other", seed=SEED + 1).vector)


class Interrupting(list[TokenPicture]):
    """Images whose fourth access ends the fit."""

    left = 4

    def __getitem__(self, key: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().__getitem__(key)


def test_an_interrupted_fit_ends_with_the_same_vector(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])
    settings = SETTINGS.model_copy(update={"num_steps": 9, "batch_size": 1, "log_every": 1})
    whole = learn(denoiser, tmp_path / "whole", pictures(), settings)
    with pytest.raises(KeyboardInterrupt):
        learn(denoiser, tmp_path / "parts", Interrupting(pictures()), settings)
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert 0 < state[TOKEN.name]["step"] < 9
    resumed = learn(denoiser, tmp_path / "parts", pictures(), settings)
    assert torch.equal(resumed.vector, whole.vector)
    assert resumed.history == whole.history


def test_fewer_rows_a_call_learn_the_same_vector(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])
    at_once = learn(denoiser, tmp_path / "at_once")
    in_turn = learn(denoiser, tmp_path / "in_turn", settings=SETTINGS.model_copy(update={"rows_per_call": 2}))
    # Sums of gradients in another order; see above.
    assert torch.allclose(at_once.vector, in_turn.vector, atol=2e-3)


def test_bfloat16_sees_the_same_losses_to_its_precision(models: dict[str, Path], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"num_steps": 1, "dtype": "bfloat16"})
    half = learn(load(models["9"], settings), tmp_path / "half", settings=settings)
    full = learn(load(models["9"]), tmp_path / "full", settings=SETTINGS.model_copy(update={"num_steps": 1}))
    assert half.vector.dtype == torch.float32
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.02)  # 8 bits of mantissa


def test_with_a_whole_mask_an_inpainting_model_sees_nothing_of_the_picture(models: dict[str, Path]) -> None:
    denoiser = load(models["9"])
    rows = [
        denoiser.noisy_row(denoiser.encode(picture, flipped=False), torch.Generator().manual_seed(0))
        for picture in pictures(2)
    ]
    assert torch.equal(rows[0].inputs_1Chw[:, 4:], rows[1].inputs_1Chw[:, 4:])
    assert not torch.equal(rows[0].inputs_1Chw[:, :4], rows[1].inputs_1Chw[:, :4])
    assert (rows[0].region_11hw == 1).all()


def test_a_loss_that_is_not_finite_ends_the_fit(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])
    denoiser.unet.conv_out.weight[:] = torch.nan
    with pytest.raises(StageError, match=r"loss of <bird-1> at step 1 is nan; lower textual_inversion\.learning_rate"):
        learn(denoiser, tmp_path / "fit")


def test_a_region_that_selects_nothing_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    empty = TokenPicture("img-3", pictures(1)[0].image_HWC, np.zeros((SIDE, SIDE), dtype=bool))
    with pytest.raises(DataError, match=r"image 'img-3': the repaint mask selects no pixel"):
        learn(load(models["9"]), tmp_path / "fit", [empty])


def test_a_model_that_predicts_something_else_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ModelError, match="predicts 'sample'"):
        load(folder)


def test_memory_that_does_not_suffice_says_what_to_set(models: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(models["9"])

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (made by a test)")

    denoiser.unet.register_forward_pre_hook(refuse)
    with pytest.raises(ResourceError, match=r"3 images in a UNet call; set textual_inversion\.rows_per_call=1"):
        learn(denoiser, tmp_path / "fit")


def test_a_token_explains_held_out_images_of_its_class_better_than_its_initializer(tmp_path: Path) -> None:
    """The shipped model, landbirds on water; the token starts from "bird". Same noise and times for both."""
    settings = TextualInversionConfig(
        region="object", num_steps=25, batch_size=4, learning_rate=0.1, templates=("a photo of a {token} {word}",)
    )
    denoiser = FrozenDenoiser(find_painter(trained_model(settings, InpainterConfig())), device="cpu")
    token = ClassToken("<landbird>", "bird", "bird")

    def scenes(first_seed: int, num: int) -> list[TokenPicture]:
        drawn = [render_scene(first_seed + i, label=0, attribute=1) for i in range(num)]
        return [TokenPicture(str(i), s.image_HWC, dilate(s.object_HW, radius_px=8)) for i, s in enumerate(drawn)]

    worker = Worker(0, 1, "cpu", tmp_path)
    learned = learn_tokens(denoiser, [(token, scenes(50_000, 30))], settings, seed=0, worker=worker)[token.name]
    text = token.fill(settings.prompt)

    @torch.no_grad()
    def losses(vector_1D: torch.Tensor) -> np.ndarray:
        prompt = denoiser.prompts.tokenize(text, {token.name: vector_1D})
        found = []
        for i, picture in enumerate(scenes(90_000, 20)):
            encoded = denoiser.encode(picture, flipped=False)
            rows = [denoiser.noisy_row(encoded, torch.Generator().manual_seed(100 * i + k)) for k in range(4)]
            found.append(float(denoiser.losses_B(rows, [prompt] * 4).mean()))
        return np.array(found)

    before_N, after_N = losses(denoiser.initial_vector(token)), losses(learned.vector)
    print(f"held-out loss {before_N.mean():.4f} -> {after_N.mean():.4f}")
    gain_N = before_N - after_N
    assert gain_N.mean() > 3 * gain_N.std(ddof=1) / np.sqrt(len(gain_N))
    assert after_N.mean() < 0.97 * before_N.mean()
