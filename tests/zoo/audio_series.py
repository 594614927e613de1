"""Audio and time-series models out of transformers."""

from __future__ import annotations

from nndiag.core.subject import Batch
from zoo.specimen import Specimen, classes, draw, ids

_SPEECH = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_labels": 3,
    "classifier_proj_size": 16,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def _wav2vec2():
    import transformers

    return transformers.Wav2Vec2ForSequenceClassification(transformers.Wav2Vec2Config(**_SPEECH))


def _hubert():
    import transformers

    return transformers.HubertForSequenceClassification(transformers.HubertConfig(**_SPEECH))


def _whisper():
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=67, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16, max_source_positions=20,
        max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _spectrogram_transformer():
    import transformers

    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16, num_labels=3,
    )  # fmt: skip
    return transformers.ASTForAudioClassification(config)


def _patchtst():
    import transformers

    config = transformers.PatchTSTConfig(
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, num_hidden_layers=2, d_model=32,
        num_attention_heads=4, ffn_dim=64, prediction_length=8,
    )  # fmt: skip
    return transformers.PatchTSTForPrediction(config)


def _patchtsmixer():
    import transformers

    config = transformers.PatchTSMixerConfig(
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, num_layers=2, d_model=16,
        prediction_length=8,
    )  # fmt: skip
    return transformers.PatchTSMixerForPrediction(config)


def specimens():
    labels = classes(16, 3)
    waves = Batch({"input_values": draw(16, 400), "labels": labels}, labels)
    yield Specimen("wav2vec2", _wav2vec2, waves, "audio")
    yield Specimen("hubert", _hubert, waves, "audio")
    spoken = ids(16, 8, 67)
    yield Specimen("whisper", _whisper, Batch({"input_features": draw(16, 16, 40), "labels": spoken}, spoken), "audio")
    heard = Batch({"input_values": draw(16, 32, 16), "labels": labels}, labels)
    yield Specimen("ast", _spectrogram_transformer, heard, "audio")
    past, future = draw(32, 32, 3), draw(32, 8, 3, seed=4)
    series = Batch({"past_values": past, "future_values": future}, None)
    yield Specimen("patchtst", _patchtst, series, "series")
    yield Specimen("patchtsmixer", _patchtsmixer, series, "series")
