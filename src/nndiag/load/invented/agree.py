"""Named arguments that must agree with one another: masks with what they mask, positions with their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.load.invented.sizes import bins_of, placeholders

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {"image": 1, "video": 2, "audio": 3}  # how mm_token_type_ids count


def agreeing(made: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return the arguments with masks, positions and kinds of tokens as long as the ids, features and pictures are."""
    ids, features, pictures = made.get("input_ids"), made.get("input_features"), made.get("pixel_values")
    changed = dict(made)
    if ids is not None and ids.dim() == 2:
        _follow_words(changed, ids, config)
    if features is not None and features.dim() == 3:
        bins = bins_of(config)
        said = _frames_said(made)
        frames = said if said in features.shape[1:] else features.shape[2 if features.shape[1] == bins else 1]
        names = ("input_features_mask", "padding_mask", *(() if ids is not None else ("attention_mask",)))
        for name in names:
            _fill(changed, name, (len(features), frames))
    if pictures is not None and pictures.dim() >= 4:
        _fill(changed, "pixel_mask", (len(pictures), *pictures.shape[-2:]))
    return changed


def _frames_said(made: dict[str, Any]) -> int:
    """Return how many frames the mask of the features has."""
    mask = made.get("input_features_mask", made.get("padding_mask"))
    return int(mask.shape[1]) if mask is not None and mask.dim() == 2 else 0


def _follow_words(made: dict[str, Any], ids: Tensor, config: Any) -> None:
    """Make what stands beside the ids as long as they are, and say which of them are placeholders."""
    import torch

    _fill(made, "attention_mask", tuple(ids.shape))
    _fill(made, "token_type_ids", tuple(ids.shape))
    if "position_ids" in made and made["position_ids"].dim() == 2 and made["position_ids"].shape != ids.shape:
        made["position_ids"] = torch.arange(ids.shape[1]).expand(ids.shape).clone()
    if "mm_token_type_ids" in made:
        kinds = torch.zeros_like(ids)
        for kind, mark in placeholders(config).items():
            kinds[ids == mark] = _KINDS.get(kind, 1)
        made["mm_token_type_ids"] = kinds


def _fill(made: dict[str, Any], name: str, shape: tuple[int, ...]) -> None:
    """Give a mask of one value this shape, where it has another of as many axes."""
    old = made.get(name)
    if old is not None and old.dim() == len(shape) and tuple(old.shape) != shape and old.numel():
        made[name] = old.new_full(shape, old.flatten()[0].item())
