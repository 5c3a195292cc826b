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
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 2, 14140, 71.76, 45.79, 45.66, 1341, 0, 23, 0.0158),
    Fitted("Qwen/Qwen3-32B", "bf16", "h100_sxm", 8, 7025, 67.28, 10.22, 17.39, 333.8, 0, 30, 0.0216),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 1, 12480, 17.9, 22.26, 32.89, 3111, 0, 15, 0.0158),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 2, 9099, 35.04, 9.796, 24.87, 1521, 0, 15, 0.0183),
    Fitted("meta-llama/Llama-3.1-70B", "fp4", "b200_sxm", 8, 6094, 74.1, 0.7048, 18.05, 333.1, 0, 15, 0.0397),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 1, 15560, 27.71, 21.68, 60.99, 3021, 0, 15, 0.0178),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 2, 9966, 38.87, 8.855, 39.98, 1483, 0, 15, 0.0104),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "b200_sxm", 8, 6011, 67.88, 0.7048, 20.29, 346.5, 0, 15, 0.0293),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 2, 17360, 77.07, 51.21, 17.44, 1732, 0, 15, 0.0681),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h100_sxm", 8, 8821, 64.13, 11.37, 27.95, 461.4, 0, 15, 0.0253),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 1, 20800, 81.45, 65.96, 91.71, 3595, 0, 15, 0.0426),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 2, 13160, 46.95, 36.07, 62.97, 1892, 0, 15, 0.036),
    Fitted("meta-llama/Llama-3.1-70B", "fp8", "h200_sxm", 8, 7736, 49.29, 8.564, 24.52, 461.3, 0, 15, 0.0272),
    Fitted("moonshotai/Kimi-K2.5", "fp4", "b200_sxm", 8, 6533, 52.42, 10.61, 21.38, 350.4, 12.17, 4, 0.0351),
    Fitted("moonshotai/Kimi-K2.5", "fp4", "b300_sxm", 8, 6349, 51.63, 8.687, 16.18, 346.5, 11.96, 4, 0.0301),
    Fitted("moonshotai/Kimi-K2.5", "int4", "b200_sxm", 8, 8503, 79.72, 8.775, 34.05, 345.1, 39.22, 15, 0.011),
    Fitted("moonshotai/Kimi-K2.5", "int4", "h200_sxm", 8, 8142, 71.69, 11.81, 43.17, 439.4, 52.71, 29, 0.0147),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 1, 2668, 26.76, 1.269, 6.425, 330.8, 46.81, 18, 0.0202),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 2, 3014, 15.14, 0.8101, 3.754, 163.3, 27.7, 18, 0.0569),
    Fitted("openai/gpt-oss-120b", "fp4", "b200_sxm", 8, 2818, 30.16, 0.4331, 4.704, 41.44, 6.192, 15, 0.0339),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 2, 3780, 34.33, 3.016, 21.02, 208.4, 64.16, 15, 0.0108),
    Fitted("openai/gpt-oss-120b", "fp4", "h100_sxm", 8, 3245, 54.04, 0.3645, 12.8, 51.46, 8.404, 15, 0.0657),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 1, 3891, 42.2, 2.134, 30.72, 411.2, 139.8, 15, 0.0263),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 2, 3541, 36.08, 2.35, 19.79, 208, 62.91, 15, 0.0111),
    Fitted("openai/gpt-oss-120b", "fp4", "h200_sxm", 8, 3238, 27.17, 0.8989, 8.981, 52.16, 13.24, 15, 0.0148),
]  # fmt: skip
