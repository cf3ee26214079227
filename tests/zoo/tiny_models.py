"""Tiny models of random weights, of every class that transformers can build from a config by one rule set.

>>> model = tiny_model("LlamaForCausalLM")
>>> model.get_input_embeddings()
Embedding(320, 32, padding_idx=2)

`_RULES` shrinks what a config calls by its usual names. `_SPECIAL` has what else a class needs to be tiny, or to be at
all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM

VOCAB = 320
BOS, EOS, PAD = 0, 1, 2
_MOST = 5_000_000
"""Numbers in a tiny model, at most."""
_MARKERS = 300
"""Ids from here on stand for images and the like."""

_LAYERS = r"(num_hidden_|num_|n_|encoder_|decoder_|num_encoder_|num_decoder_)?(layers?|depth|blocks)"
_RULES: tuple[tuple[str, int], ...] = (
    (r"(\w+_)?vocab_size(_per_layer_input)?|n_vocab|n_tokens", VOCAB),
    (r"pad_token_id|pad_idx|pad_index", PAD),
    (r"bos_token_id", BOS),
    (r"eos_token_id|sep_token_id", EOS),
    (r"(\w+_)?(hidden|embed|embedding|model|lru|proj|attention_hidden)_?(size|dim|width)(_per_layer_input)?|"
     r"d_model|n_embd|emb_dim|dim|width|word_embed_proj_dim|dim_model|output_dim|adapter_(in|out)_dim|"
     r"adapter_input_size", 32),
    (r"\w*(intermediate|ffn|feed_forward|ff|inner)\w*(size|dim|mlp)|n_inner|d_ff|dim_ff", 64),
    (_LAYERS, 2),
    (r"\w*(num|n|encoder|decoder|attention|mamba)_(attention_|mamba_|q_)?heads?", 4),
    (r"\w*key_value_heads|num_kv_heads", 2),
    (r"\w*head_dim|d_kv|d_head|index_head_dim|attention_head_size", 8),
    (r"\w*max_(position_embeddings|seq_len|sequence_length|target_positions|source_positions)|"
     r"max_\w+_position_embeddings|n_positions|n_ctx|context_length", 256),
    (r"(num|n|moe_num)_(local_|routed_)?experts", 4),
    (r"num_experts_per_tok(en)?|moe_top_k|moe_k|top_k_experts|num_selected_experts", 2),
    (r"first_k_dense_replace|num_dense_layers|num_sparse_(en|de)coder_layers", 1),
    (r"\w*sparse_step", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"\w*_lora_rank", 8),
    (r"sliding_window|window_size|attention_window", 16),
)  # fmt: skip
_WHERE_NONE = r"head_dim|num_key_value_heads|(pad|bos|eos)_token_id"
"""What is set also where a config leaves it open."""

_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
_TEXT_MROPE = {f"text_config.{name}": value for name, value in _MROPE.items()}
_GEMMA4 = {"global_head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
_SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_chunk_size": 8, "mamba_d_state": 8},
    "FalconH1ForCausalLM": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "Dots1ForCausalLM": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "GPTJForCausalLM": {"rotary_dim": 4},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_chunk_size": 8},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_dt_rank": 4},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "attention_window_size": 16, "num_key_value_heads": 1},
    "NemotronHForCausalLM": {"n_groups": 2, "mamba_num_heads": 4, "chunk_size": 8},
    "Qwen2VLForConditionalGeneration": _TEXT_MROPE,
    "Qwen2_5_VLForConditionalGeneration": _TEXT_MROPE,
    "Qwen2_5OmniThinkerForConditionalGeneration": _TEXT_MROPE | {"vision_start_token_id": 301},
    "Qwen3OmniMoeThinkerForConditionalGeneration": {"vision_start_token_id": 301},
    "Glm46VForConditionalGeneration": _TEXT_MROPE,
    "GlmOcrForConditionalGeneration": _TEXT_MROPE,
    "PaddleOCRVLForConditionalGeneration": _TEXT_MROPE,
    "HunYuanVLForConditionalGeneration": {
        "text_config.rope_parameters": _MROPE["rope_parameters"] | {"mrope_section": [1, 1, 1, 1]}
    },
    "Zamba2ForCausalLM": {
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
        "chunk_size": 8,
        "layers_block_type": ["linear_attention", "hybrid"],
        "num_hidden_layers": 2,
    },
    "T5GemmaForConditionalGeneration": {"decoder_start_token_id": BOS},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "XLMWithLMHeadModel": {"causal": True, "asm": False},
    "xLSTMForCausalLM": {"num_heads": 4, "chunk_size": 8, "qk_dim_factor": 1.0},
    "EncoderDecoderModel": {"decoder.is_decoder": True, "decoder.add_cross_attention": True},
    "Gemma3nForCausalLM": {
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "intermediate_size": [64, 64],
        "activation_sparsity_pattern": [0.95, 0.0],
        "num_kv_shared_layers": 0,
    },
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": {f"text_config.{name}": value for name, value in _GEMMA4.items()},
    "Gemma4UnifiedForCausalLM": _GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": {f"text_config.{name}": value for name, value in _GEMMA4.items()},
    "Glm5NextForConditionalGeneration": {"text_config.num_key_value_heads": 4, "text_config.qk_rope_head_dim": 0},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2},
    "Glm4vForConditionalGeneration": _TEXT_MROPE,
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Llama4ForConditionalGeneration": {
        "vision_config.vision_output_dim": 32,
        "vision_config.projector_input_dim": 32,
        "vision_config.projector_output_dim": 32,
    },
    "Mamba2ForCausalLM": {"num_heads": 8, "n_groups": 2, "chunk_size": 8},
    "ReformerModelWithLMHead": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
        "num_hidden_layers": ...,
        "local_attn_chunk_length": 64,
        "lsh_attn_chunk_length": 64,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "ZambaForCausalLM": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
}


def tiny_model(name: str, **more: Any) -> Any:
    """A model of the class `name`, in evaluation mode.

    The weights are large enough that answers differ from prompt to prompt.
    """
    config = tiny_config(name, **more)
    kind = getattr(transformers, name)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in kind(config).parameters())
    if size > _MOST:
        raise ValueError(f"a {name} of {size:,} numbers is not tiny: it needs a line in `_SPECIAL`")
    torch.manual_seed(0)
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.ndim >= 2 and "norm" not in path.lower():
                weight.normal_(0, 0.3, generator=generator)
        # Smaller ones, or models that write what they read would repeat a prompt's last letter whatever comes before.
        model.get_input_embeddings().weight.mul_(1 / 3)
    return model


def letters(*, encoder_decoder: bool = False) -> Any:
    """A tokenizer of letters, each id one of them. It puts nothing before a text, and an end behind an encoder's."""
    alphabet = [chr(0x21 + i if i < 94 else 0x100 + i) for i in range(VOCAB - 3)]
    vocab = {letter: index for index, letter in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="~"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    if encoder_decoder:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tiny_llm(name: str, **more: Any) -> TransformersLM:
    """`tiny_model` and `letters` as a language model."""
    model = tiny_model(name, **more)
    llm = load_llm((model, letters(encoder_decoder=model.config.is_encoder_decoder)), name=name)
    assert isinstance(llm, TransformersLM)
    return llm


def tiny_config(name: str, **more: Any) -> PretrainedConfig:
    """The config of a tiny model of the class `name`."""
    special = dict(_SPECIAL.get(name, {})) | more
    kind: Any = getattr(transformers, name).config_class
    config = kind(**special.pop("first", {}))
    if re.search("ForCausalLM|LMHead|GenerationDecoder", name) and config.to_dict().get("is_decoder") is False:
        special.setdefault("is_decoder", True)
    return _shrunk(config, special)


def _shrunk(config: PretrainedConfig, special: Mapping[str, Any], path: str = "") -> PretrainedConfig:
    """`config` made anew with small numbers; `special` has values by their path, as ``"text_config.n_layer"``."""
    given = config.to_dict()
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        below = getattr(config, name, None) if isinstance(value, dict) else None
        small = next((small for pattern, small in _RULES if re.fullmatch(pattern, name)), None)
        if isinstance(below, PretrainedConfig):
            arguments[name] = _shrunk(below, special, f"{path}{name}.")
        elif small is not None and (type(value) is int or (value is None and re.fullmatch(_WHERE_NONE, name))):
            arguments[name] = small
        elif type(value) is int and re.fullmatch(r"\w*_token_(id|index)", name):
            arguments[name] = _MARKERS + len(arguments) % (VOCAB - _MARKERS)
    arguments |= _one_layer_of_each_kind(given)
    if given.get("is_encoder_decoder"):
        start = given.get("decoder_start_token_id")
        arguments["decoder_start_token_id"] = EOS if start == given.get("eos_token_id") else PAD
    heads, kv_heads = "num_attention_heads", "num_key_value_heads"
    if kv_heads in arguments and given[kv_heads] in (None, given.get(heads)):
        arguments[kv_heads] = arguments.get(heads, 4)
    own = {key.removeprefix(path): value for key, value in special.items() if key.startswith(path)}
    arguments |= {key: value for key, value in own.items() if "." not in key}
    return type(config)(**{name: value for name, value in arguments.items() if value is not ...})


def _one_layer_of_each_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """Layers by their kinds, where a config lists these: the first of each, at least two."""
    counts = [name for name in given if re.fullmatch(_LAYERS, name) and type(given[name]) is int]
    number = given.get(next(iter(counts), ""), 0)
    lists = {name: each for name, each in given.items() if isinstance(each, (list, tuple)) and len(each) == number > 1}
    # Of those some are numbers of layers, each another one.
    lists = {name: each for name, each in lists.items() if isinstance(each[0], str) or len({*map(str, each)}) < number}
    if not any(isinstance(each[0], str) for each in lists.values()):
        return {}
    firsts = {kinds: index for index, kinds in reversed(list(enumerate(zip(*lists.values(), strict=True))))}
    chosen = sorted(firsts.values())
    chosen = chosen * 2 if len(chosen) == 1 else chosen
    return {name: [each[index] for index in chosen] for name, each in lists.items()} | {counts[0]: len(chosen)}
