"""Coefficients fitted on published rows: `silicon_sample` of aiconfigurator-core 0.12.0 (Apache-2.0), vLLM 0.11 to 0.19,
October 2025 to April 2026, steady closed loops. Left out: overflowing caches, concurrency above 256, rows of doubtful
layout (Qwen3-235B) or concurrency (Llama-3.1-8B).

Written by `python -m benchmarks.silicon --table`, which needs the rows; do not edit. KV precision is not recorded: rows
of Blackwell fit an FP8 cache.
"""

import msgspec


class Fitted(msgspec.Struct, frozen=True):
    """One configuration. Units as in `StepTime`."""

    model: str
    precision: str
    gpu: str
    tp: int
    a_us: float
    b_us: float
    c_ns: float
    p_us: float
    q_ps: float
    expert_us: float
    rows: int = 0
    error: float = 0.0  # mean absolute relative error of TPOT on those rows

    @property
    def name(self) -> str:
        return f"{self.model} {self.precision} on {self.gpu} TP{self.tp}"


FITTED = [
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 2, 14130, 74.41, 44.87, 45.55, 1388, 0, 23, 0.0158),
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 8, 7022, 67.64, 10.16, 17.36, 342.1, 0, 30, 0.0217),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 1, 12460, 16.86, 22.53, 33.72, 2941, 0, 15, 0.0154),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 2, 9090, 34.71, 9.922, 25.04, 1484, 0, 15, 0.0184),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 8, 6096, 71.85, 1.478, 17.26, 344, 0, 15, 0.0413),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 1, 15560, 26.44, 21.99, 61.41, 2926, 0, 15, 0.018),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 2, 9965, 38.6, 8.902, 40.2, 1451, 0, 15, 0.0105),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 8, 6011, 65.43, 1.478, 19.77, 345.4, 0, 15, 0.0319),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 2, 17350, 78.83, 50.95, 17.3, 1777, 0, 15, 0.0679),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 8, 8820, 64.22, 11.49, 27.6, 476.8, 0, 15, 0.0252),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 1, 20780, 84.63, 65.26, 92.03, 3643, 0, 15, 0.0426),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 2, 13160, 47.44, 35.96, 62.97, 1923, 0, 15, 0.0361),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 8, 7736, 49.25, 8.653, 24.3, 474.9, 0, 15, 0.0273),
    Fitted("moonshotai/Kimi-K2.5", "int4", "b200_sxm", 8, 8500, 70.47, 9.645, 32.97, 348.2, 40.57, 15, 0.0113),
    Fitted("moonshotai/Kimi-K2.5", "int4", "h200_sxm", 8, 8115, 60.29, 12.27, 42.65, 451, 54.77, 29, 0.0148),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 1, 2658, 25.58, 1.33, 6.706, 297.9, 47.34, 18, 0.0209),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 2, 2985, 13.5, 0.7896, 3.774, 161.3, 29.2, 18, 0.0573),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 8, 2733, 20.34, 0.6394, 3.871, 43.63, 12.33, 15, 0.0317),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 2, 3798, 38.91, 2.843, 21.13, 212.4, 62.17, 15, 0.0099),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 8, 3264, 57.57, 0.3821, 12.43, 53.3, 6.886, 15, 0.0654),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 1, 3946, 55.18, 2.133, 30.78, 417.1, 133.5, 15, 0.025),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 2, 3562, 41.37, 2.176, 19.91, 211.7, 60.56, 15, 0.0102),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 8, 3241, 27.72, 0.9608, 8.815, 53.6, 12.99, 15, 0.0149),
]  # fmt: skip
