"""Accelerators: the limits that memory and step time follow from, each with its source.

Nominal dense peaks. What they cost is in `plan/price_lists`.
"""

import msgspec

AIC = "aiconfigurator-core 0.12.0 system file (Apache-2.0)"
VENDOR = "vendor pages; dense peaks from the vendor's data sheet, not re-checked"


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one accelerator."""

    name: str
    memory_gib: float  # as CUDA reports it where that is known, else as the vendor does
    bandwidth_tbps: float  # of its memory [1e12 B/s]
    bf16_tflops: float  # dense peak
    fp8_tflops: float  # 0 = not supported
    fp4_tflops: float  # 0 = not supported
    link_gbps: float  # scale-up, one direction [1e9 B/s]
    power_w: int = 0  # 0 = unknown
    aliases: list[str] = []  # other words that name it
    source: str = AIC
    memory_reported: bool = False  # memory_gib is the device's own figure
    pads_mxfp4: bool = False  # its kernels pad expert matrices
    blackwell: bool = False  # of that generation: the measured rows have efficiencies of its own


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100_sxm", 79.18, 3.35, 989, 1979, 0, 450, 700, memory_reported=True, pads_mxfp4=True),
        Gpu("h100_pcie", 80.0, 2.0, 756.5, 1513, 0, 64, 350, pads_mxfp4=True),
        Gpu("h200_sxm", 141.0, 4.8, 989, 1979, 0, 450, 700, pads_mxfp4=True),
        Gpu("b200_sxm", 180.0, 7.7, 2250, 4500, 9000, 900, 1000, blackwell=True),
        Gpu("b300_sxm", 268.6, 7.75, 2250, 4500, 14000, 900, 1100, blackwell=True),
        Gpu("gb200", 185.0, 8.0, 2500, 5000, 10000, 900, 1200, blackwell=True),
        Gpu("gb300", 277.5, 8.0, 2500, 5000, 15000, 900, 1400, blackwell=True),
        Gpu("a100_sxm", 80.0, 2.039, 312, 0, 0, 300, 400),
        Gpu("a100_40gb", 40.0, 1.555, 312, 0, 0, 300, 400, source=VENDOR),
        Gpu("l40s", 45.0, 0.864, 362, 733, 0, 32, 350),
        Gpu("l4", 24.0, 0.3, 121, 242, 0, 32, 72),
        Gpu("rtx_pro_6000", 95.6, 1.792, 467.8, 935.6, 1871.2, 64, 600, ["rtx6000", "pro6000"],
            blackwell=True),
        Gpu("mi300x", 192.0, 5.3, 1307.4, 2614.9, 0, 448, 750, source=VENDOR),
        Gpu("mi325x", 256.0, 6.0, 1307.4, 2614.9, 0, 448, 1000, source=VENDOR + "; peaks taken as those of MI300X"),
        Gpu("mi355x", 288.0, 8.0, 2516, 5033, 10066, 537.5, 1400, source=VENDOR),
        Gpu("gaudi3", 128.0, 3.7, 1835, 1835, 0, 600, 900, source="Intel's public pages; 24 links of 200 Gbit/s"),
        Gpu("tpu_v5e", 16.0, 0.819, 197, 0, 0, 200, 0, ["v5e"], source="Google Cloud TPU pages; list price"),
        Gpu("tpu_v6e", 32.0, 1.638, 918, 0, 0, 400, 0, ["v6e", "trillium"],
            source="Google Cloud TPU pages; list price"),
        Gpu("gb10", 128.0, 0.273, 125, 250, 500, 120, 0, ["spark"],
            source="vendor page (1 PFLOPS sparse FP4); other peaks taken as halves of the next narrower format",
            blackwell=True),
        Gpu("h100_nvl", 94.0, 3.9, 835.5, 1671, 0, 300, 400, pads_mxfp4=True, source=VENDOR),
        Gpu("h20", 96.0, 4.0, 148, 296, 0, 450, 400, pads_mxfp4=True, source=VENDOR),
        Gpu("h800", 80.0, 3.35, 989, 1979, 0, 200, 700, pads_mxfp4=True, source=VENDOR),
        Gpu("gh200", 96.0, 4.0, 989, 1979, 0, 450, 1000, pads_mxfp4=True, source=VENDOR + "; the part with HBM3"),
        Gpu("l40", 48.0, 0.864, 181, 362, 0, 32, 300, source=VENDOR),
        Gpu("a10", 24.0, 0.6, 125, 0, 0, 32, 150, source=VENDOR),
        Gpu("rtx_4090", 24.0, 1.008, 165.2, 330.3, 0, 32, 450, ["rtx4090", "4090"], source=VENDOR),
        Gpu("rtx_5090", 32.0, 1.792, 209.5, 419, 1676, 64, 575, ["rtx5090", "5090"], source=VENDOR, blackwell=True),
        Gpu("rtx_6000_ada", 48.0, 0.96, 364.2, 728.5, 0, 32, 300, ["6000ada"], source=VENDOR),
        Gpu("mi350x", 288.0, 8.0, 2307, 4614, 9227, 537.5, 1000, source=VENDOR),
        Gpu("arc_pro_b60", 24.0, 0.456, 98.3, 0, 0, 32, 200, ["b60"]),
    )
}  # fmt: skip
