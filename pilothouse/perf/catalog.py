"""GPUs and models by name: the numbers that memory and step time follow from, each with its source.

GPU figures: system files of aiconfigurator-core 0.12.0 (Apache-2.0), nominal dense peaks. Model figures: the models'
published configurations; parameter counts calculated from them.
"""

import msgspec

AIC = "aiconfigurator-core 0.12.0 system file"
CONFIG = "published model configuration; parameters calculated"


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one accelerator."""

    name: str
    memory_gib: float  # as CUDA reports it where that is known, else as the vendor does
    bandwidth_tbps: float  # of its memory [1e12 B/s]
    bf16_tflops: float  # dense peak
    fp8_tflops: float  # 0 = not supported
    fp4_tflops: float  # 0 = not supported
    link_gbps: float  # scale-up, one direction [1e9 B/s]
    source: str = AIC
    memory_reported: bool = False  # memory_gib is the device's own figure
    pads_mxfp4: bool = False  # its kernels pad expert matrices


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Architecture of one model, as far as speed and memory depend on it."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    parameters_b: float  # [1e9]
    active_b: float  # per token, lm_head included, embedding not [1e9]
    intermediate: int = 0  # of the dense MLP
    full_layers: int | None = None  # layers that keep all of the context; None = all
    window_layers: int = 0  # layers that keep `window` tokens
    window: int = 0
    linear_state_mb: float = 0.0  # constant state per running sequence, all linear layers [1e6 B]
    latent: int = 0  # MLA: kv_lora_rank + qk_rope_head_dim; 0 = not MLA
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    dense_layers: int = 0  # leading layers without experts
    tied_embeddings: bool = False
    aliases: list[str] = []
    source: str = CONFIG

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert in all layers together."""
        return self.moe_layers * 3 * self.hidden * self.expert_intermediate

    @property
    def attention_layers(self) -> int:
        return self.layers if self.full_layers is None else self.full_layers


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100_sxm", 79.18, 3.35, 989, 1979, 0, 450, memory_reported=True, pads_mxfp4=True),
        Gpu("h200_sxm", 141.0, 4.8, 989, 1979, 0, 450, pads_mxfp4=True),
        Gpu("b200_sxm", 180.0, 7.7, 2250, 4500, 9000, 900),
        Gpu("b300_sxm", 268.6, 7.75, 2250, 4500, 14000, 900),
        Gpu("gb200", 185.0, 8.0, 2500, 5000, 10000, 900),
        Gpu("a100_sxm", 80.0, 2.039, 312, 0, 0, 300),
        Gpu("l40s", 45.0, 0.864, 362, 733, 0, 32),
        Gpu("l4", 24.0, 0.3, 121, 242, 0, 32),
    )
}

MODELS = {
    model.name: model
    for model in (
        Model("Qwen/Qwen3-32B", 64, 5120, 64, 8, 128, 151_936, 32.76, 31.98, 25_600),
        Model("Qwen/Qwen3-8B", 36, 4096, 32, 8, 128, 151_936, 8.19, 7.57, 12_288),
        Model("Qwen/Qwen3-0.6B", 28, 1024, 16, 8, 128, 151_936, 0.6, 0.6, 3_072, tied_embeddings=True),
        Model("Qwen/Qwen3-30B-A3B", 48, 2048, 32, 4, 128, 151_936, 30.53, 3.04, 6_144,
              experts=128, experts_per_token=8, expert_intermediate=768),
        Model("Qwen/Qwen3.6-27B", 64, 5120, 24, 4, 256, 248_320, 26.89, 25.62, 17_408,
              full_layers=16, linear_state_mb=153.9),
        Model("meta-llama/Llama-3.1-8B", 32, 4096, 32, 8, 128, 128_256, 8.03, 7.5, 14_336,
              aliases=["nvidia/Llama-3.1-8B-Instruct-FP8"]),
        Model("meta-llama/Llama-3.1-70B", 80, 8192, 64, 8, 128, 128_256, 70.55, 69.5, 28_672,
              aliases=["meta-llama/Llama-3.3-70B-Instruct"]),
        Model("openai/gpt-oss-20b", 24, 2880, 64, 8, 64, 201_088, 20.91, 3.61, full_layers=12, window_layers=12,
              window=128, experts=32, experts_per_token=4, expert_intermediate=2_880),
        Model("openai/gpt-oss-120b", 36, 2880, 64, 8, 64, 201_088, 116.79, 5.13, full_layers=18, window_layers=18,
              window=128, experts=128, experts_per_token=4, expert_intermediate=2_880),
        Model("deepseek-ai/DeepSeek-V3", 61, 7168, 128, 128, 128, 129_280, 671.03, 36.62, 18_432, latent=576,
              experts=256, experts_per_token=8, expert_intermediate=2_048, dense_layers=3),
        Model("moonshotai/Kimi-K2.5", 61, 7168, 64, 64, 128, 163_840, 1026.41, 31.69, 18_432, latent=576,
              experts=384, experts_per_token=8, expert_intermediate=2_048, dense_layers=1),
    )
}  # fmt: skip


def model_named(name: str) -> Model:
    """By name or alias. Raises KeyError for a model that is not in the catalogue."""
    found = MODELS.get(name) or next((m for m in MODELS.values() if name in m.aliases), None)
    if found is None:
        raise KeyError(f"no model {name!r} in the catalogue; known: {', '.join(MODELS)}")
    return found
