"""Coefficients fitted on published rows: `silicon_sample` of aiconfigurator-core 0.12.0 (Apache-2.0), vLLM 0.11 to 0.19,
October 2025 to April 2026, steady closed loops. Left out: overflowing caches, concurrency above 256, rows of doubtful
layout (Qwen3-235B) or concurrency (Llama-3.1-8B).

Written by `python -m benchmarks.silicon --table`, which needs the rows; do not edit. KV precision is not recorded:
`priors.kv_byte_as_measured` says what is taken for it.
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
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 2, 14140, 71.65, 45.85, 45.66, 1358, 0, 23, 0.0158),
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 8, 7025, 67.27, 10.23, 17.38, 339.5, 0, 30, 0.0216),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 1, 12480, 17.84, 22.27, 32.97, 3098, 0, 15, 0.0157),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 2, 9098, 34.99, 9.815, 24.84, 1523, 0, 15, 0.0184),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 8, 6095, 74.1, 0.7181, 17.99, 335.1, 0, 15, 0.0397),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 1, 15560, 27.65, 21.7, 61.03, 3014, 0, 15, 0.0179),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 2, 9966, 38.83, 8.87, 39.98, 1482, 0, 15, 0.0104),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 8, 6012, 67.85, 0.7181, 20.26, 347.4, 0, 15, 0.0293),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 2, 16520, 49.31, 56.87, 62.66, 1911, 0, 13, 0.0091),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 8, 8821, 64.09, 11.38, 27.91, 471, 0, 15, 0.0254),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 1, 20420, 70.53, 69.85, 109.8, 3737, 0, 14, 0.0298),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 2, 13160, 47.05, 36, 63.06, 1915, 0, 15, 0.0361),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 8, 7736, 49.26, 8.577, 24.48, 470.9, 0, 15, 0.0272),
    Fitted("moonshotai/Kimi-K2.5", "fp4", "b200_sxm", 8, 6531, 52.51, 10.78, 21.33, 350.3, 12.15, 4, 0.0351),
    Fitted("moonshotai/Kimi-K2.5", "fp4", "b300_sxm", 8, 6348, 51.72, 8.802, 16.15, 346.5, 11.94, 4, 0.0301),
    Fitted("moonshotai/Kimi-K2.5", "int4", "b200_sxm", 8, 8504, 79.74, 8.818, 34.02, 345.1, 39.19, 15, 0.011),
    Fitted("moonshotai/Kimi-K2.5", "int4", "h200_sxm", 8, 8143, 71.94, 11.81, 43.12, 448.7, 52.66, 29, 0.0147),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 1, 2668, 26.67, 1.293, 6.427, 329, 46.8, 18, 0.0203),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 2, 3015, 15.16, 0.8077, 3.755, 163.4, 27.69, 18, 0.057),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 8, 2818, 30.17, 0.44, 4.69, 41.47, 6.183, 15, 0.034),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 2, 3780, 34.18, 3.02, 21, 212.9, 64.23, 15, 0.0109),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 8, 3245, 53.91, 0.3714, 12.79, 52.56, 8.46, 15, 0.0657),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 1, 3889, 41.83, 2.119, 30.7, 419.9, 140, 15, 0.0264),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 2, 3540, 35.89, 2.36, 19.76, 212.5, 62.99, 15, 0.0111),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 8, 3238, 27.11, 0.9117, 8.964, 53.29, 13.25, 15, 0.0148),
]  # fmt: skip
