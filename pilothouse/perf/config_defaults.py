"""What checkpoints leave out of config.json because their family's class fills it in. By `model_type`.

source     defaults of the configuration classes of transformers 5.19 (Apache-2.0), only those that published files lack
"""

from typing import Any

TIED = {"tie_word_embeddings": True}
GATED = {"attn_output_gate": True}  # the attention's output is gated by as many values
GEMMA_3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
QWEN_VL = {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 151_936}

DEFAULTS: dict[str, dict[str, Any]] = {
    "afmoe": GATED,
    "bloom": TIED,
    "cohere": TIED,
    "cohere2": TIED | {"sliding_window_pattern": 4},
    "cohere2_moe": TIED | {"sliding_window_pattern": 4},
    "ernie4_5": TIED,
    "ernie4_5_moe": TIED,
    "falcon": TIED,
    "gemma": TIED,
    "gemma2": TIED | {"sliding_window_pattern": 2},
    "gemma3": TIED | GEMMA_3 | {"sliding_window_pattern": 6},
    "gemma3_text": TIED | GEMMA_3 | {"sliding_window_pattern": 6},
    "gemma3n_text": TIED,
    "gemma4_text": TIED,
    "gemma4_unified_text": TIED,
    "glm4_moe": {"first_k_dense_replace": 1},
    "gpt2": TIED,
    "gpt_bigcode": TIED,
    "gpt_oss": {"sliding_window_pattern": 2},
    "hunyuan_v1_moe": {"num_shared_expert": 1},
    "hy_v4": GATED,
    "kimi_linear": {"linear_conv_kernel_dim": 4},
    "lfm2": TIED,
    "lfm2_moe": TIED,
    "llama4_text": {"no_rope_layer_interval": 4, "attention_chunk_size": 8192},
    "mamba": TIED,
    "mpt": TIED,
    "muse_glimmer_text": GATED,
    "nanochat": {"tie_word_embeddings": False},
    "nemotron_h": {"mamba_ssm_cache_dtype": "float32"},
    "opt": TIED,
    "qwen2_5_vl_text": QWEN_VL,
    "qwen2_vl_text": QWEN_VL,
    "qwen3_5": GATED,
    "qwen3_5_moe": GATED,
    "qwen3_5_moe_text": GATED,
    "qwen3_5_text": GATED,
    "qwen3_next": GATED,
    "starcoder2": TIED,
}

CHECKED = frozenset(  # families whose parameters are within 1 % of what transformers instantiates, `benchmarks/model_configs.py`
    "afmoe apertus arcee aria_text axk1 axk2 bamba bitnet bloom codegen cohere cohere2 cohere2_moe cosmos3_edge_text "
    "cwm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon "
    "falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm glm4 "
    "glm4_moe glm4_moe_lite glm4v_moe_text glm4v_text glm5_next_text glm_moe_dsa glm_ocr_text gpt2 gpt_bigcode "
    "gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium "
    "hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax jais2 jamba kimi_k2 kimi_linear laguna lfm2 llama llama4_text "
    "mamba mamba2 mellum mimo mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3 minimax_m3_vl minimax_m3_vl_text "
    "ministral ministral3 mistral "
    "mistral4 mixtral mpt muse_glimmer_text nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe "
    "paddleocr_vl_text phi phi3 phi4_multimodal phimoe qwen2 qwen2_5_omni_text qwen2_5_vl_text qwen2_moe "
    "qwen2_vl_text qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_omni_moe_text qwen3_vl_moe_text "
    "qwen3_vl_text seed_oss smollm3 solar_open stablelm starcoder2 step3p5 step3p7 vaultgemma youtu".split()
)

STRANGE = {  # family -> what is unlike all others in it
    "blt": "models within the model",
    "doge": "experts that are looked up",
    "evolla": "attention between models",
    "hrm_text": "layers that run several times",
    "idefics": "attention between models",
    "inkling_text": "attention by relative distance",
    "jetmoe": "experts in its attention",
    "longcat_flash": "two attentions to a layer",
    "moshi": "several streams at once",
    "qwen4_exp_text": "embeddings of groups of tokens",
    "recurrent_gemma": "recurrent layers of another kind",
    "rwkv": "recurrent layers of another kind",
    "xlstm": "recurrent layers of another kind",
    "zamba": "layers that share weights",
    "zamba2": "layers that share weights",
    "zaya": "convolutions in its attention",
}

STRANGE_FIELDS = {"block_configs": "layers that differ one by one"}  # likewise, whatever the family

ENCODERS = frozenset(
    "albert bart bert bert-generation big_bird camembert clip data2vec-text deberta deberta-v2 distilbert electra ernie git "
    "marian megatron-bert modernbert mbart mt5 nomic_bert pegasus rembert roberta roberta-prelayernorm roc_bert roformer t5 "
    "whisper xlm xlm-roberta xlm-roberta-xl xlnet xmod".split()
)
