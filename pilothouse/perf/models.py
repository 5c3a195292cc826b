"""Models that people serve: what speed and memory depend on, each with its source.

Parameter counts are calculated from the architecture and agree with the models' names; vision towers and prediction
heads for several tokens are not counted.
"""

import msgspec

AIC_CONFIG = "published model configuration (as in aiconfigurator-core 0.12.0, Apache-2.0); parameters calculated"
CARD = "published model configuration; parameters calculated"
SECOND_HAND = "second-hand: Megatron-Bridge documentation and slime model script"
TEXT_PART = "text part only: " + AIC_CONFIG
CLASS = "defaults of its configuration class in transformers 5.19 (Apache-2.0); parameters calculated"
UNVERIFIED = "model card, not re-checked"


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Architecture of one model, as far as speed and memory depend on it."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int  # MLA: mean width of a query's and a value's head
    vocab: int
    parameters_b: float  # [1e9]
    active_b: float  # per token, lm_head included, embedding not [1e9]
    intermediate: int = 0  # of the dense MLP
    full_layers: int | None = None  # layers that keep all of the context; None = all
    window_layers: int = 0  # layers that keep `window` tokens
    window: int = 0
    window_kv_heads: int = 0  # of these layers; 0 = as many as in the others
    window_head_dim: int = 0  # likewise
    linear_state_mb: float = (
        0.0  # state per running sequence, all layers that keep one, in the declared precision [1e6 B]
    )
    latent: int = 0  # MLA: kv_lora_rank + qk_rope_head_dim; 0 = not MLA
    kept_share: float = 1.0  # of the context that growing layers keep: less where one vector stands for several tokens
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    expert_matrices: int = 3  # to an expert: 2 without a gate
    expert_input: int = 0  # width of what an expert takes; 0 = `hidden`
    dense_layers: int = 0  # leading layers without experts
    tied_embeddings: bool = False
    prediction_layers: int = 0  # multi-token prediction, not counted in `layers` nor in parameters
    index_width: int = 0  # of what sparse attention keeps beside the latent cache to pick tokens by; 0 = none
    published: str = "bf16"  # precision of the weights as they are published first
    published_gb: float = 0.0  # all weights in that precision, with what is left in 16 bits [1e9 B]; 0 = by rule
    context: int = 0  # tokens of a prompt and its answer that it takes; 0 = not known here
    aliases: list[str] = []
    source: str = AIC_CONFIG

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert in all layers together."""
        return self.moe_layers * self.expert_matrices * (self.expert_input or self.hidden) * self.expert_intermediate

    @property
    def attention_layers(self) -> int:
        """Layers whose KV grows with the context."""
        return self.layers if self.full_layers is None else self.full_layers


# Tokens that a model takes: `max_position_embeddings` of the published configurations (as in aiconfigurator-core 0.12.0).
LIMITS = {
    32_768: ("mistralai/Mixtral-8x7B-v0.1",),
    40_960: (
        "Qwen/Qwen3-32B",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-30B-A3B",
        "Qwen/Qwen3-235B-A22B",
        "Qwen/Qwen3-1.7B",
    ),
    65_536: (
        "mistralai/Mixtral-8x22B-v0.1",
        "stepfun-ai/Step-3.7-Flash",
    ),
    131_072: (
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-70B",
        "meta-llama/Llama-3.1-405B",
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
        "moonshotai/Kimi-K2-Instruct",
    ),
    163_840: (
        "deepseek-ai/DeepSeek-V3",
        "deepseek-ai/DeepSeek-R1",
        "deepseek-ai/DeepSeek-V3.2",
    ),
    196_608: ("MiniMaxAI/MiniMax-M2.5",),
    262_144: (
        "Qwen/Qwen3-Coder-480B-A35B-Instruct",
        "Qwen/Qwen3.5-27B",
        "Qwen/Qwen3.6-27B",
        "Qwen/Qwen3.5-35B-A3B",
        "Qwen/Qwen3.6-35B-A3B",
        "Qwen/Qwen3.5-122B-A10B",
        "Qwen/Qwen3.5-397B-A17B",
        "moonshotai/Kimi-K2.5",
        "XiaomiMiMo/MiMo-V2-Flash",
        "google/gemma-4-26B-A4B",
        "google/gemma-4-31B-it",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B",
        "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B",
    ),
    1_048_576: (
        "zai-org/GLM-5.2",
        "deepseek-ai/DeepSeek-V4-Flash",
        "deepseek-ai/DeepSeek-V4-Pro",
        "MiniMaxAI/MiniMax-M3",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        "moonshotai/Kimi-K3",
    ),
    10_485_760: ("meta-llama/Llama-4-Scout-17B-16E-Instruct",),
}
CONTEXTS = {name: tokens for tokens, names in LIMITS.items() for name in names}

MODELS = {
    model.name: msgspec.structs.replace(model, context=CONTEXTS.get(model.name, 0))
    for model in (
        Model("Qwen/Qwen3-32B", 64, 5_120, 64, 8, 128, 151_936, 32.76, 31.98, 25_600,
              aliases=["Qwen/Qwen3-VL-32B-Instruct"]),
        Model("Qwen/Qwen3-8B", 36, 4_096, 32, 8, 128, 151_936, 8.19, 7.57, 12_288,
              aliases=["Qwen/Qwen3-VL-8B-Instruct"]),
        Model("Qwen/Qwen3-0.6B", 28, 1_024, 16, 8, 128, 151_936, 0.6, 0.6, 3_072, tied_embeddings=True),
        Model("Qwen/Qwen3-30B-A3B", 48, 2_048, 32, 4, 128, 151_936, 30.53, 3.04, experts=128, experts_per_token=8,
              expert_intermediate=768,
              aliases=["Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct"]),
        Model("Qwen/Qwen3-235B-A22B", 94, 4_096, 64, 4, 128, 151_936, 235.09, 21.57, experts=128,
              experts_per_token=8, expert_intermediate=1_536,
              aliases=["Qwen/Qwen3-VL-235B-A22B-Instruct"]),
        Model("Qwen/Qwen3-Coder-480B-A35B-Instruct", 62, 6_144, 96, 8, 128, 151_936, 480.15, 34.54, experts=160,
              experts_per_token=8, expert_intermediate=2_560),
        Model("Qwen/Qwen3.5-27B", 64, 5_120, 24, 4, 256, 248_320, 26.89, 25.62, 17_408, full_layers=16,
              linear_state_mb=153.9, prediction_layers=1),
        Model("Qwen/Qwen3.6-27B", 64, 5_120, 24, 4, 256, 248_320, 26.89, 25.62, 17_408, full_layers=16,
              linear_state_mb=153.9, prediction_layers=1),
        Model("Qwen/Qwen3.5-35B-A3B", 40, 2_048, 16, 2, 256, 248_320, 34.66, 2.95, full_layers=10,
              linear_state_mb=64.4, experts=256, experts_per_token=8, expert_intermediate=512, prediction_layers=1),
        Model("Qwen/Qwen3.6-35B-A3B", 40, 2_048, 16, 2, 256, 248_320, 34.66, 2.95, full_layers=10,
              linear_state_mb=64.4, experts=256, experts_per_token=8, expert_intermediate=512, prediction_layers=1),
        Model("Qwen/Qwen3.5-122B-A10B", 48, 3_072, 32, 2, 256, 248_320, 122.11, 9.01, full_layers=12,
              linear_state_mb=153.6, experts=256, experts_per_token=8, expert_intermediate=1_024, prediction_layers=1),
        Model("Qwen/Qwen3.5-397B-A17B", 60, 4_096, 32, 2, 256, 248_320, 396.34, 16.33, full_layers=15,
              linear_state_mb=192.1, experts=512, experts_per_token=10, expert_intermediate=1_024, prediction_layers=1),
        Model("meta-llama/Llama-3.1-8B", 32, 4_096, 32, 8, 128, 128_256, 8.03, 7.5, 14_336,
              aliases=["nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3-8b"]),
        Model("meta-llama/Llama-3.1-70B", 80, 8_192, 64, 8, 128, 128_256, 70.55, 69.5, 28_672,
              aliases=["meta-llama/Llama-3.3-70B-Instruct", "llama-3-70b",
                       "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"]),
        Model("meta-llama/Llama-3.1-405B", 126, 16_384, 128, 8, 128, 128_256, 405.85, 403.75, 53_248),
        Model("deepseek-ai/DeepSeek-V3", 61, 7_168, 128, 128, 160, 129_280, 671.03, 36.62, 18_432, latent=576,
              experts=256, experts_per_token=8, expert_intermediate=2_048, dense_layers=3, published="fp8",
              prediction_layers=1,
              aliases=["deepseek-ai/DeepSeek-V3.1"]),
        Model("deepseek-ai/DeepSeek-R1", 61, 7_168, 128, 128, 160, 129_280, 671.03, 36.62, 18_432, latent=576,
              experts=256, experts_per_token=8, expert_intermediate=2_048, dense_layers=3, published="fp8",
              prediction_layers=1),
        Model("deepseek-ai/DeepSeek-V3.2", 61, 7_168, 128, 128, 160, 129_280, 671.03, 36.62, 18_432, latent=576,
              experts=256, experts_per_token=8, expert_intermediate=2_048, dense_layers=3, published="fp8",
              prediction_layers=1, index_width=128),
        Model("openai/gpt-oss-20b", 24, 2_880, 64, 8, 64, 201_088, 20.91, 3.61, full_layers=12, window_layers=12,
              window=128, experts=32, experts_per_token=4, expert_intermediate=2_880, published="fp4"),
        Model("openai/gpt-oss-120b", 36, 2_880, 64, 8, 64, 201_088, 116.79, 5.13, full_layers=18, window_layers=18,
              window=128, experts=128, experts_per_token=4, expert_intermediate=2_880, published="fp4"),
        Model("mistralai/Mixtral-8x7B-v0.1", 32, 4_096, 32, 8, 128, 32_000, 46.7, 12.75, experts=8,
              experts_per_token=2, expert_intermediate=14_336),
        Model("mistralai/Mixtral-8x22B-v0.1", 56, 6_144, 48, 8, 128, 32_000, 140.62, 38.95, experts=8,
              experts_per_token=2, expert_intermediate=16_384),
        Model("moonshotai/Kimi-K2-Instruct", 61, 7_168, 64, 64, 160, 163_840, 1026.41, 31.69, 18_432, latent=576,
              experts=384, experts_per_token=8, expert_intermediate=2_048, dense_layers=1, published="fp8"),
        Model("moonshotai/Kimi-K2.5", 61, 7_168, 64, 64, 160, 163_840, 1026.41, 31.69, 18_432, latent=576,
              experts=384, experts_per_token=8, expert_intermediate=2_048, dense_layers=1, source=TEXT_PART,
              published="int4",
              aliases=["moonshotai/Kimi-K2.6", "moonshotai/Kimi-K2.7-Code"]),
        Model("zai-org/GLM-5.2", 78, 6_144, 64, 64, 256, 154_880, 743.18, 40.1, 12_288, latent=576, experts=256,
              experts_per_token=8, expert_intermediate=2_048, dense_layers=3, prediction_layers=1, index_width=128,
              aliases=["zai-org/GLM-5", "zai-org/GLM-5.1"]),
        Model("zai-org/GLM-4.5", 92, 5_120, 96, 8, 128, 151_552, 352.8, 32.85, 12_288, experts=160,
              experts_per_token=8, expert_intermediate=1_536, dense_layers=3, source=SECOND_HAND, prediction_layers=1,
              aliases=["zai-org/GLM-4.6", "zai-org/GLM-4.7"]),
        Model("zai-org/GLM-4.5-Air", 46, 4_096, 96, 8, 128, 151_552, 106.85, 12.8, 10_944, experts=128,
              experts_per_token=8, expert_intermediate=1_408, dense_layers=1, source=SECOND_HAND, prediction_layers=1),
        Model("ibm-granite/granite-3.1-8b-instruct", 40, 4_096, 32, 8, 128, 49_155, 8.17, 8.17, 12_800,
              tied_embeddings=True, source=UNVERIFIED),
        Model("deepseek-ai/DeepSeek-V4-Flash", 43, 4_096, 64, 1, 512, 129_280, 284.3, 13.23, full_layers=41,
              window_layers=43, window=128, latent=512, kept_share=0.13186, experts=256, experts_per_token=6,
              expert_intermediate=2_048, prediction_layers=1, index_width=128, published="fp4",
              published_gb=155.5),
        Model("deepseek-ai/DeepSeek-V4-Pro", 61, 7_168, 128, 1, 512, 129_280, 1572.91, 48.77, window_layers=61,
              window=128, latent=512, kept_share=0.12692, experts=384, experts_per_token=6,
              expert_intermediate=3_072, prediction_layers=1, index_width=128, published="fp4",
              published_gb=849.6),
        Model("MiniMaxAI/MiniMax-M2.5", 62, 3_072, 48, 8, 128, 200_064, 228.69, 10.42, experts=256,
              experts_per_token=8, expert_intermediate=1_536, published="fp8",
              aliases=["MiniMaxAI/MiniMax-M2", "MiniMaxAI/MiniMax-M2.7"]),
        Model("MiniMaxAI/MiniMax-M3", 60, 6_144, 64, 4, 128, 200_064, 425.95, 24.51, intermediate=12_288,
              experts=128, experts_per_token=4, expert_intermediate=3_072, dense_layers=3, prediction_layers=1,
              source=TEXT_PART),
        Model("XiaomiMiMo/MiMo-V2-Flash", 48, 4_096, 64, 4, 160, 152_576, 308.78, 14.82, intermediate=16_384,
              full_layers=9, window_layers=39, window=128, window_kv_heads=8, window_head_dim=160, experts=256,
              experts_per_token=8, expert_intermediate=2_048, dense_layers=1, published="fp8"),
        Model("meta-llama/Llama-4-Scout-17B-16E-Instruct", 48, 5_120, 40, 8, 128, 202_048, 107.77, 16.14,
              full_layers=12, window_layers=36, window=8_192, experts=16, experts_per_token=1,
              expert_intermediate=8_192, aliases=["llama-4-scout"], source=TEXT_PART),
        Model("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 48, 5_120, 40, 8, 128, 202_048, 400.71, 16.15,
              intermediate=16_384, full_layers=12, window_layers=36, window=8_192, experts=128,
              experts_per_token=1, expert_intermediate=8_192, dense_layers=24, aliases=["llama-4-maverick"],
              source=TEXT_PART),
        Model("google/gemma-3-27b-it", 62, 5_376, 32, 16, 128, 262_208, 27.01, 27.01, 21_504, full_layers=10,
              window_layers=52, window=1_024, tied_embeddings=True, source=CARD),
        Model("google/gemma-3-12b-it", 48, 3_840, 16, 8, 256, 262_208, 11.77, 11.77, 15_360, full_layers=8,
              window_layers=40, window=1_024, tied_embeddings=True, source=CARD),
        Model("google/gemma-3-4b-it", 34, 2_560, 8, 4, 256, 262_208, 3.88, 3.88, 10_240, full_layers=5,
              window_layers=29, window=1_024, tied_embeddings=True, source=CARD),
        Model("google/gemma-4-26B-A4B", 30, 2_816, 16, 2, 512, 262_144, 25.23, 3.82, intermediate=2_112,
              full_layers=5, window_layers=25, window=1_024, window_kv_heads=8, window_head_dim=256,
              experts=128, experts_per_token=8, expert_intermediate=704, tied_embeddings=True,
              source=TEXT_PART),
        Model("google/gemma-4-31B-it", 60, 5_376, 32, 4, 512, 262_144, 30.7, 30.7, intermediate=21_504,
              full_layers=10, window_layers=50, window=1_024, window_kv_heads=16, window_head_dim=256,
              tied_embeddings=True, source=TEXT_PART),
        Model("moonshotai/Kimi-K3", 93, 7_168, 96, 96, 160, 163_840, 2773.56, 98.27, intermediate=33_792,
              full_layers=24, linear_state_mb=449.4, latent=576, experts=896, experts_per_token=16,
              expert_intermediate=3_072, expert_input=3_584, dense_layers=1, published="fp4",
              published_gb=1541.2, source=TEXT_PART),
        Model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", 52, 2_688, 32, 2, 128, 131_072, 31.58, 3.23,
              full_layers=6, linear_state_mb=49.1, experts=128, experts_per_token=6, expert_intermediate=1_856,
              expert_matrices=2, dense_layers=29, aliases=["nemotron-3-nano"]),
        Model("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B", 88, 4_096, 32, 2, 128, 131_072, 120.67, 12.23,
              full_layers=8, linear_state_mb=170.2, experts=512, experts_per_token=22,
              expert_intermediate=2_688, expert_matrices=2, expert_input=1_024, dense_layers=48,
              prediction_layers=1, aliases=["nemotron-3-super"]),
        Model("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B", 108, 8_192, 64, 2, 128, 131_072, 549.3, 54.98,
              full_layers=12, linear_state_mb=408.0, experts=512, experts_per_token=22,
              expert_intermediate=5_120, expert_matrices=2, expert_input=2_048, dense_layers=60,
              prediction_layers=1, aliases=["nemotron-3-ultra"]),
        Model("stepfun-ai/Step-3.7-Flash", 45, 4_096, 64, 8, 128, 128_896, 195.83, 10.34, intermediate=11_264,
              full_layers=12, window_layers=33, window=512, experts=288, experts_per_token=8,
              expert_intermediate=1_280, dense_layers=3, prediction_layers=3, source=TEXT_PART),
        Model("Qwen/Qwen3-Next-80B-A3B-Instruct", 48, 2_048, 16, 2, 256, 151_936, 79.67, 3.56, full_layers=12,
              linear_state_mb=39.5, experts=512, experts_per_token=10, expert_intermediate=512, source=CLASS),
        Model("moonshotai/Kimi-Linear-48B-A3B-Instruct", 27, 2_304, 32, 32, 160, 163_840, 49.13, 3.12,
              intermediate=9_216, full_layers=6, linear_state_mb=45.6, latent=576, experts=256,
              experts_per_token=8, expert_intermediate=1_024, dense_layers=1, source=CLASS),
        Model("zai-org/GLM-4.7-Flash", 47, 2_048, 20, 20, 256, 154_880, 29.94, 3.58, intermediate=10_240,
              latent=576, experts=64, experts_per_token=4, expert_intermediate=1_536, dense_layers=1,
              source=CLASS),
        Model("Qwen/Qwen3-14B", 40, 5_120, 40, 8, 128, 151_936, 14.77, 13.99, 17_408, source=CARD),
        Model("Qwen/Qwen3-4B", 36, 2_560, 32, 8, 128, 151_936, 4.02, 4.02, 9_728, tied_embeddings=True,
              source=CARD),
        Model("Qwen/Qwen3-1.7B", 28, 2_048, 16, 8, 128, 151_936, 1.72, 1.72, 6_144, tied_embeddings=True,
              source=CARD),
        Model("Qwen/Qwen2.5-7B-Instruct", 28, 3_584, 28, 4, 128, 152_064, 7.62, 7.07, 18_944, source=CARD),
        Model("Qwen/Qwen2.5-14B-Instruct", 48, 5_120, 40, 8, 128, 152_064, 14.77, 13.99, 13_824, source=CARD),
        Model("Qwen/Qwen2.5-32B-Instruct", 64, 5_120, 40, 8, 128, 152_064, 32.76, 31.98, 27_648, source=CARD,
              aliases=["Qwen/QwQ-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"]),
        Model("Qwen/Qwen2.5-72B-Instruct", 80, 8_192, 64, 8, 128, 152_064, 72.71, 71.46, 29_568, source=CARD),
        Model("meta-llama/Llama-3.2-1B", 16, 2_048, 32, 8, 64, 128_256, 1.24, 1.24, 8_192, tied_embeddings=True,
              source=CARD),
        Model("meta-llama/Llama-3.2-3B", 28, 3_072, 24, 8, 128, 128_256, 3.21, 3.21, 8_192, tied_embeddings=True,
              source=CARD),
        Model("mistralai/Mistral-7B-Instruct-v0.3", 32, 4_096, 32, 8, 128, 32_768, 7.25, 7.11, 14_336, source=CARD),
        Model("mistralai/Mistral-Small-3.2-24B", 40, 5_120, 32, 8, 128, 131_072, 23.57, 22.9, 32_768, source=CARD,
              aliases=["mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistralai/Devstral-Small-2507"]),
        Model("microsoft/phi-4", 40, 5_120, 40, 10, 128, 100_352, 14.66, 14.15, 17_920, source=CARD),
    )
}  # fmt: skip
