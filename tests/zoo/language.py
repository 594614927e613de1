"""Language models out of transformers, two layers wide as a thumb."""

from __future__ import annotations

from nndiag.core.subject import Batch
from zoo.specimen import ROWS, Specimen, classes, ids

VOCAB, WIDTH, LENGTH = 67, 32, 12
_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
_LLAMA = _BERT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# name -> (model class, config class, config arguments, kind of batch)
_MODELS = {
    "bert": ("BertForSequenceClassification", "BertConfig", _BERT | {"num_labels": 3}, "class"),
    "bert-mlm": ("BertForMaskedLM", "BertConfig", _BERT, "tokens"),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _BERT | {"num_labels": 3} | _SPECIAL, "class"),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCAB, "dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 3},
        "class",
    ),
    "albert": (
        "AlbertForSequenceClassification",
        "AlbertConfig",
        _BERT | {"embedding_size": 16, "num_labels": 3} | _SPECIAL,
        "class",
    ),
    "electra": (
        "ElectraForSequenceClassification",
        "ElectraConfig",
        _BERT | {"embedding_size": 16, "num_labels": 3},
        "class",
    ),
    "deberta-v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        _BERT | {"num_labels": 3, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
        "class",
    ),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", _BERT | {"num_labels": 3} | _SPECIAL, "class"),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 40} | _SPECIAL,
        "tokens",
    ),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 40,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
        }
        | _SPECIAL,
        "tokens",
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _BERT | _SPECIAL, "tokens"),
    "gptj": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 40, "rotary_dim": 8}
        | _SPECIAL,
        "tokens",
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": WIDTH,
        }
        | _SPECIAL,
        "tokens",
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, "tokens"),
    "mistral": ("MistralForCausalLM", "MistralConfig", _LLAMA, "tokens"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, "tokens"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"head_dim": 8}, "tokens"),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _LLAMA | {"head_dim": 8}, "tokens"),
    "phi": ("PhiForCausalLM", "PhiConfig", _LLAMA, "tokens"),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", _LLAMA, "tokens"),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _LLAMA, "tokens"),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
        "tokens",
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4} | _SPECIAL,
        "tokens",
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4} | _SPECIAL,
        "tokens",
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 40} | _SPECIAL,
        "tokens",
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 8} | _SPECIAL,
        "tokens",
    ),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "context_length": 40} | _SPECIAL,
        "tokens",
    ),
    "xlnet": (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 64, "num_labels": 3} | _SPECIAL,
        "class",
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": VOCAB,
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        }
        | _SPECIAL,
        "pairs",
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            "vocab_size": VOCAB,
            "d_model": WIDTH,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 40,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        }
        | _SPECIAL,
        "pairs",
    ),
}


def _builder(model, config, arguments):
    def build():
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**arguments))

    return build


def _batch(kind):
    tokens = ids(ROWS, LENGTH, VOCAB)
    if kind == "class":
        labels = classes(ROWS, 3)
        return Batch({"input_ids": tokens, "labels": labels}, labels)
    if kind == "pairs":
        labels = ids(ROWS, 8, VOCAB, seed=9)
        return Batch({"input_ids": tokens, "labels": labels}, labels)
    return Batch({"input_ids": tokens, "labels": tokens}, tokens)


def specimens():
    for name, (model, config, arguments, kind) in _MODELS.items():
        yield Specimen(name, _builder(model, config, arguments), _batch(kind), "language")
