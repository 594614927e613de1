"""Inputs for models with a config: arguments by their names, and what their errors ask for besides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nndiag.core.subject import Training
from nndiag.lab.forward import call
from nndiag.load.invented.invent import invent
from nndiag.load.invented.repairs import other_shapes

WORDS, MARK = 60, 57


class Reader(nn.Module):
    """Reads ids; the subclasses ask for more, as models of pictures and sounds do."""

    def __init__(self, **sizes):
        super().__init__()
        self.config = SimpleNamespace(model_type="reader", vocab_size=WORDS, hidden_size=8, **sizes)
        self.table, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, 3)


class SeesPictures(Reader):
    def forward(self, input_ids, pixel_values=None, mm_token_type_ids=None):
        words = self.table(input_ids)
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        features = pixel_values.flatten(2).transpose(1, 2)[:, :5, :1].expand(-1, -1, 8)
        places = input_ids == MARK
        if places.sum() != features.shape[:2].numel():
            count = features.shape[:2].numel()
            raise ValueError(f"Image features and image tokens do not match, tokens: {places.sum()}, features: {count}")
        assert mm_token_type_ids is None or torch.equal(mm_token_type_ids.bool(), places)
        return self.head(words.masked_scatter(places[..., None], features).mean(1))


class NeedsMoreToTrain(Reader):
    def forward(self, input_ids, mm_token_type_ids=None):
        if self.training and mm_token_type_ids is None:
            raise ValueError("`mm_token_type_ids` is required as a model input when training")
        return self.head(self.table(input_ids).mean(1))


class OneOrTheOther(Reader):
    def forward(self, input_ids, pixel_values=None, image_embeds=None):
        if (pixel_values is None) == (image_embeds is None):
            raise ValueError("You have to specify either pixel_values or image_embeds")
        return self.head(self.table(input_ids).mean(1))


class StacksFrames(Reader):
    main_input_name = "input_features"

    def __init__(self):
        super().__init__(num_mel_bins=6)
        self.enter = nn.Linear(18, 8)

    def forward(self, input_features, input_features_mask):
        assert input_features_mask.shape == input_features.shape[:2], "The mask has other frames"
        return self.head(self.enter(input_features).mean(1))


class AddsSoundsToWords(Reader):
    def __init__(self):
        super().__init__(num_mel_bins=6)
        self.enter = nn.Conv1d(6, 8, 4, stride=6)

    def forward(self, input_ids, input_features=None):
        if input_features is None:
            raise ValueError("You must specify input_features")
        assert input_features.numel() == len(input_ids) * 6 * 32, "Sounds are cut into 32 frames before"
        sounds = input_features if input_features.shape[1] == 6 else input_features.transpose(1, 2)
        return self.head((self.table(input_ids) + self.enter(sounds).transpose(1, 2)).mean(1))


class TakesAnUnheardOfEmbedding(Reader):
    def forward(self, action_embeds, input_ids):
        return self.head(self.table(input_ids).mean(1) + action_embeds.mean(1))


@pytest.mark.parametrize("model", [
    SeesPictures(image_token_id=MARK, num_channels=1, image_size=8),
    NeedsMoreToTrain(),
    OneOrTheOther(image_size=8),
    StacksFrames(), AddsSoundsToWords(),
    TakesAnUnheardOfEmbedding(),
])  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_a_model_with_a_config_is_given_what_it_asks_for(model, training):
    found = invent(model, Training())
    assert found.data is not None, found.why
    model.train(training)
    assert call(model, next(iter(found.data.batches(4))).inputs).shape == (4, 3)


def test_ids_of_a_model_of_words_never_hold_the_mark_of_a_picture():
    found = invent(NeedsMoreToTrain(image_token_id=MARK), Training()).data
    assert all(MARK not in batch.inputs["input_ids"] for batch in found.batches(64))


def test_a_module_that_was_never_meant_to_be_called_is_said_to_have_no_forward():
    assert invent(nn.ModuleList([nn.Linear(2, 2)]), Training()).why == (
        "ModuleList has no forward: give a module that calls it"
    )


def test_a_missing_channel_and_a_missing_sequence_are_added():
    assert next(other_shapes((400,), "not enough values to unpack (expected 3, got 2)")) == (1, 400)
    said = "Given normalized_shape=[32], expected input with shape [*, 32], but got input of size[4, 400]"
    assert (16, 32) in list(other_shapes((400,), said))
