"""Where KV blocks can lie beside the GPU's own memory: how fast they come back from there, and how much fits.

Nominal figures, four fifths of them reached (as taken for network links in the simulator). Measure your own machines where
the answer is close.
"""

import msgspec

from pilothouse.core.events import Tier

REACHED = 0.8


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tier below HBM, as each GPU finds it."""

    tier: Tier
    gb_per_s: float  # read, that one engine's GPU gets [1e9 B/s]
    room_gb: float  # of each GPU [1e9 B]; 0 = shared by all, as large as one likes
    source: str
    per_gpu: bool = True  # each GPU of an engine has as much; else all share it


STORAGES = {
    storage.tier: storage
    for storage in (
        Storage(
            Tier.DRAM, REACHED * 63, REACHED * 250,
            "PCIe 5.0 x16, 504 GB/s for 8 GPUs, and 2 TB of memory: MLPerf Inference v4.1, system H200-SXM-141GBx8",
        ),
        Storage(
            Tier.DISK, REACHED * 6.8, REACHED * 3840,
            "one drive a GPU as in DGX H100 (8 x 3.84 TB); 6.8 GB/s sequential: Samsung PM9A3, PCIe 4.0 x4",
        ),
        Storage(Tier.REMOTE, REACHED * 50, 0, "one network card of 400 Gb/s an engine", per_gpu=False),
    )
}  # fmt: skip


def fetch_us(storage: Storage, token_bytes: float, tp: int) -> float:
    """Time to bring one token's KV to an engine [microseconds].

    token_bytes   of the whole model; the GPUs of an engine each fetch their part
    """
    return token_bytes / (storage.gb_per_s * (tp if storage.per_gpu else 1) * 1e3)
