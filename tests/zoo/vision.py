"""Vision models out of transformers, on images of 32 pixels."""

from __future__ import annotations

import torch

from nndiag.core.subject import Batch
from zoo.specimen import ROWS, Specimen, draw, ids, images

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 4,
}
_MODELS = {
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _VIT),
    "beit": ("BeitForImageClassification", "BeitConfig", _VIT),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _VIT),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "num_labels": 4},
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": 4}),
    "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": 4}),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "num_labels": 4}),
    "regnet": ("RegNetForImageClassification", "RegNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8, "num_labels": 4}),
    "mobilenet-v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.25, "min_depth": 8, "num_labels": 4, "image_size": 32}),
    "poolformer": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "num_labels": 4},
    ),
}  # fmt: skip


def _builder(model, config, arguments):
    def build():
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**arguments))

    return build


def _segformer():
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=4,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def _clip():
    import transformers

    text = {"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    vision = {key: value for key, value in _VIT.items() if key != "num_labels"}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def specimens():
    seen = images(ROWS, 3, 32)
    named = Batch({"pixel_values": seen.inputs, "labels": seen.targets}, seen.targets)
    for name, (model, config, arguments) in _MODELS.items():
        yield Specimen(name, _builder(model, config, arguments), named, "vision")
    masks = torch.randint(0, 4, (8, 32, 32), generator=torch.Generator().manual_seed(6))
    yield Specimen("segformer", _segformer, Batch({"pixel_values": seen.inputs[:8], "labels": masks}, masks), "vision")
    words = ids(ROWS, 8, 67)
    words[:, -1] = 2  # the end mark, which CLIP reads its sentence from
    pairs = Batch({"input_ids": words, "pixel_values": draw(ROWS, 3, 32, 32), "return_loss": True}, None)
    yield Specimen("clip", _clip, pairs, "vision")
