"""GroundingDINO, SAM, SAM 2 and CLIPSeg at tiny size, with random weights: as fast as a mock, and not one."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    SwinConfig,
)

SIDE_PX = 64
WORDS = ("a", "bird", "cat", "dog", "water", "land")
MAX_TOKENS = 12


def save_grounding_dino(folder: Path, *, seed: int = 0) -> Path:
    """A detector of 64 px pictures with 9 queries."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = _word_tokenizer()
        config = GroundingDinoConfig(
            backbone_config=SwinConfig(
                image_size=SIDE_PX,
                embed_dim=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 1, 2, 2],
                window_size=4,
                out_features=["stage2", "stage3", "stage4"],
            ),
            text_config=BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=MAX_TOKENS,
            ),
            num_queries=9,
            encoder_layers=1,
            encoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_layers=2,
            decoder_ffn_dim=16,
            decoder_attention_heads=2,
            d_model=32,
            max_text_len=MAX_TOKENS,
            encoder_n_points=2,
            decoder_n_points=2,
        )
        GroundingDinoForObjectDetection(config).save_pretrained(folder)
        images = GroundingDinoImageProcessor(size={"shortest_edge": SIDE_PX // 2, "longest_edge": SIDE_PX})
        GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def save_sam(folder: Path, *, seed: int = 0) -> Path:
    """A segmenter of 64 px pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = SamConfig(
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "mlp_dim": 16,
                "image_size": SIDE_PX,
                "patch_size": 8,
                "output_channels": 16,
                "window_size": 4,
                "global_attn_indexes": [0],
                "num_pos_feats": 8,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": SIDE_PX, "patch_size": 8, "mask_input_channels": 4},
            mask_decoder_config={
                "hidden_size": 16,
                "mlp_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 16,
            },
        )
        SamModel(config).save_pretrained(folder)
        images = SamImageProcessor(size={"longest_edge": SIDE_PX}, pad_size={"height": SIDE_PX, "width": SIDE_PX})
        SamProcessor(images).save_pretrained(folder)
    return folder


def save_sam2(folder: Path, *, seed: int = 0) -> Path:
    """A SAM 2 segmenter of 64 px pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Sam2Config(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": 8,
                    "num_attention_heads": 1,
                    "image_size": [SIDE_PX, SIDE_PX],
                    "window_positional_embedding_background_size": [4, 4],
                    "blocks_per_stage": [1, 1, 1, 1],
                    "embed_dim_per_stage": [8, 16, 32, 64],
                    "num_attention_heads_per_stage": [1, 1, 2, 4],
                    "window_size_per_stage": [4, 2, 4, 2],
                    "global_attention_blocks": [],
                },
                "backbone_channel_list": [64, 32, 16, 8],
                "backbone_feature_sizes": [[SIDE_PX // s, SIDE_PX // s] for s in (4, 8, 16)],
                "fpn_hidden_size": 32,
            },
            prompt_encoder_config={
                "hidden_size": 32,
                "image_size": SIDE_PX,
                "patch_size": 16,
                "mask_input_channels": 4,
            },
            mask_decoder_config={
                "hidden_size": 32,
                "mlp_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 16,
            },
        )
        Sam2Model(config).save_pretrained(folder)
        Sam2Processor(Sam2ImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})).save_pretrained(folder)
    return folder


def _word_tokenizer() -> BertTokenizer:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=MAX_TOKENS)
