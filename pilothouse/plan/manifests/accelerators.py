"""GPUs as a cluster knows them: the resource that pods ask for, and the node label that tells which model it is.

Labels are written to nodes by NVIDIA's GPU feature discovery and AMD's node labeller, made of the name that the driver
reports. They were not tried on such nodes here: `kubectl get nodes -L LABEL` shows what yours say.
"""

from pathlib import PurePath

from msgspec import Struct

from pilothouse.perf.catalog import gpu_named

PRODUCTS = {
    "h100_sxm": ("NVIDIA-H100-80GB-HBM3",),
    "h100_pcie": ("NVIDIA-H100-PCIe",),
    "h100_nvl": ("NVIDIA-H100-NVL",),
    "h20": ("NVIDIA-H20",),
    "h800": ("NVIDIA-H800",),
    "gh200": ("NVIDIA-GH200-480GB",),
    "h200_sxm": ("NVIDIA-H200",),
    "b200_sxm": ("NVIDIA-B200",),
    "b300_sxm": ("NVIDIA-B300-SXM6-AC",),
    "gb200": ("NVIDIA-GB200",),
    "gb300": ("NVIDIA-GB300",),
    "a100_sxm": ("NVIDIA-A100-SXM4-80GB",),
    "a100_40gb": ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
    "l40s": ("NVIDIA-L40S",),
    "l40": ("NVIDIA-L40",),
    "l4": ("NVIDIA-L4",),
    "a10": ("NVIDIA-A10",),
    "rtx_4090": ("NVIDIA-GeForce-RTX-4090",),
    "rtx_5090": ("NVIDIA-GeForce-RTX-5090",),
    "rtx_6000_ada": ("NVIDIA-RTX-6000-Ada-Generation",),
    "rtx_pro_6000": (
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
        "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition",
    ),
    "gb10": ("NVIDIA-GB10",),
    "mi300x": ("AMD_Instinct_MI300X_OAM",),
    "mi325x": ("AMD_Instinct_MI325X_OAM",),
    "mi350x": ("AMD_Instinct_MI350X_OAM",),
    "mi355x": ("AMD_Instinct_MI355X_OAM",),
}
OTHERS = ("tpu", "gaudi", "arc")  # beginnings of names: vLLM runs there too, in images and on nodes of their own kind
OWN_LABEL = "pilothouse.io/gpu"  # of a GPU that the catalogue does not have: set it on its nodes


class Accelerator(Struct, frozen=True):
    """How one kind of GPU is asked for."""

    resource: str
    label: str  # of nodes
    products: tuple[str, ...]  # values of that label, one of which it must be
    image: str  # role of the image that runs on it
    visible: str  # environment variable that picks some of a machine's
    device: str = "nvidia"  # driver of compose, "" = none


def accelerator(gpu: str) -> Accelerator | str:
    """Or why there are no manifests for it."""
    try:
        name = gpu_named(gpu).name
    except KeyError:
        name = PurePath(gpu).stem
    if name.startswith(OTHERS):
        return f"{name}: manifests are for NVIDIA and AMD GPUs; it wants an image and node shapes of its vendor"
    amd = name.startswith("mi")
    products = PRODUCTS.get(name, ())
    vendors = "amd.com/gpu.product-name" if amd else "nvidia.com/gpu.product"
    label, values = (vendors, products) if products else (OWN_LABEL, (_value(name),))
    if amd:
        return Accelerator("amd.com/gpu", label, values, "engine-rocm", "HIP_VISIBLE_DEVICES", "")
    return Accelerator("nvidia.com/gpu", label, values, "engine", "CUDA_VISIBLE_DEVICES")


def known(gpu: str) -> Accelerator:
    """Of a GPU that was not refused."""
    found = accelerator(gpu)
    assert isinstance(found, Accelerator), found
    return found


def _value(name: str) -> str:
    """As a label's value may be."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)[:63].strip("-") or "own"
