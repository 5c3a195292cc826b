"""Models that people serve: what speed and memory depend on, each with its source.

Parameter counts are calculated from the architecture and agree with the models' names; vision towers and prediction
heads for several tokens are not counted.
"""

import msgspec

AIC_CONFIG = "published model configuration (as in aiconfigurator-core 0.12.0, Apache-2.0); parameters calculated"
CARD = "published model configuration; parameters calculated"
SECOND_HAND = "second-hand: Megatron-Bridge documentation and slime model script"
TEXT_PART = "text part only: " + AIC_CONFIG
APPROXIMATE = "approximate: " + AIC_CONFIG
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
    linear_state_mb: float = 0.0  # state per running sequence, all linear layers, in the declared float32 [1e6 B]
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


MODELS = {
    model.name: model
    for model in (
        Model("Qwen/Qwen3-32B", 64, 5_120, 64, 8, 128, 151_936, 32.76, 31.98, 25_600),
        Model("Qwen/Qwen3-8B", 36, 4_096, 32, 8, 128, 151_936, 8.19, 7.57, 12_288),
        Model("Qwen/Qwen3-0.6B", 28, 1_024, 16, 8, 128, 151_936, 0.6, 0.6, 3_072, tied_embeddings=True),
        Model("Qwen/Qwen3-30B-A3B", 48, 2_048, 32, 4, 128, 151_936, 30.53, 3.04, experts=128, experts_per_token=8,
              expert_intermediate=768),
        Model("Qwen/Qwen3-235B-A22B", 94, 4_096, 64, 4, 128, 151_936, 235.09, 21.57, experts=128,
              experts_per_token=8, expert_intermediate=1_536),
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
              aliases=["meta-llama/Llama-3.3-70B-Instruct", "llama-3-70b"]),
        Model("meta-llama/Llama-3.1-405B", 126, 16_384, 128, 8, 128, 128_256, 405.85, 403.75, 53_248),
        Model("deepseek-ai/DeepSeek-V3", 61, 7_168, 128, 128, 160, 129_280, 671.03, 36.62, 18_432, latent=576,
              experts=256, experts_per_token=8, expert_intermediate=2_048, dense_layers=3, published="fp8",
              prediction_layers=1),
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
              published="int4"),
        Model("zai-org/GLM-5.2", 78, 6_144, 64, 64, 256, 154_880, 743.18, 40.1, 12_288, latent=576, experts=256,
              experts_per_token=8, expert_intermediate=2_048, dense_layers=3, prediction_layers=1, index_width=128),
        Model("google/gemma-4-26B-A4B", 30, 2_816, 16, 8, 256, 262_144, 24.63, 3.21, full_layers=5,
              window_layers=25, window=1_024, experts=128, experts_per_token=8, expert_intermediate=704,
              tied_embeddings=True, source=APPROXIMATE),
        Model("zai-org/GLM-4.5", 92, 5_120, 96, 8, 128, 151_552, 352.8, 32.85, 12_288, experts=160,
              experts_per_token=8, expert_intermediate=1_536, dense_layers=3, source=SECOND_HAND, prediction_layers=1),
        Model("zai-org/GLM-4.5-Air", 46, 4_096, 96, 8, 128, 151_552, 106.85, 12.8, 10_944, experts=128,
              experts_per_token=8, expert_intermediate=1_408, dense_layers=1, source=SECOND_HAND, prediction_layers=1),
        Model("ibm-granite/granite-3.1-8b-instruct", 40, 4_096, 32, 8, 128, 49_155, 8.17, 8.17, 12_800,
              tied_embeddings=True, source=UNVERIFIED),
        Model("Qwen/Qwen3-14B", 40, 5_120, 40, 8, 128, 151_936, 14.77, 13.99, 17_408, source=CARD),
        Model("Qwen/Qwen3-4B", 36, 2_560, 32, 8, 128, 151_936, 4.02, 4.02, 9_728, tied_embeddings=True,
              source=CARD),
        Model("Qwen/Qwen3-1.7B", 28, 2_048, 16, 8, 128, 151_936, 1.72, 1.72, 6_144, tied_embeddings=True,
              source=CARD),
        Model("Qwen/Qwen2.5-7B-Instruct", 28, 3_584, 28, 4, 128, 152_064, 7.62, 7.07, 18_944, source=CARD),
        Model("Qwen/Qwen2.5-14B-Instruct", 48, 5_120, 40, 8, 128, 152_064, 14.77, 13.99, 13_824, source=CARD),
        Model("Qwen/Qwen2.5-32B-Instruct", 64, 5_120, 40, 8, 128, 152_064, 32.76, 31.98, 27_648, source=CARD),
        Model("Qwen/Qwen2.5-72B-Instruct", 80, 8_192, 64, 8, 128, 152_064, 72.71, 71.46, 29_568, source=CARD),
        Model("meta-llama/Llama-3.2-1B", 16, 2_048, 32, 8, 64, 128_256, 1.24, 1.24, 8_192, tied_embeddings=True,
              source=CARD),
        Model("meta-llama/Llama-3.2-3B", 28, 3_072, 24, 8, 128, 128_256, 3.21, 3.21, 8_192, tied_embeddings=True,
              source=CARD),
        Model("mistralai/Mistral-7B-Instruct-v0.3", 32, 4_096, 32, 8, 128, 32_768, 7.25, 7.11, 14_336, source=CARD),
        Model("mistralai/Mistral-Small-3.2-24B", 40, 5_120, 32, 8, 128, 131_072, 23.57, 22.9, 32_768, source=CARD),
        Model("microsoft/phi-4", 40, 5_120, 40, 10, 128, 100_352, 14.66, 14.15, 17_920, source=CARD),
    )
}  # fmt: skip
