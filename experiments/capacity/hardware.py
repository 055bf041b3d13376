"""Machines by name: what their makers publish of them, each figure with its source.

Peak figures: no program reaches them, so what is computed from them is a bound.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

HardwareName = Literal["", "v5e-16", "v5p-32", "h100x1", "h100x8"]


class Chip(NamedTuple):
    """One accelerator, as JAX counts devices."""

    hbm: float  # GiB
    flops: float  # dense products of bfloat16, operations/s
    bandwidth: float  # of its memory, bytes/s
    link: float  # to its neighbours in a slice or a host, bytes/s, one way
    network: float  # its share of the network between hosts, bytes/s, one way
    per_host: int  # chips of a host
    sources: str


CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(
        hbm=16.0,
        flops=197e12,
        bandwidth=819e9,
        link=200e9,
        network=25e9 / 8,
        per_host=4,
        sources="cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, links of "
        "400 GB/s both ways together; 6.4 Tbit/s of network for 256 chips; hosts of "
        "a slice of several have 4 chips",
    ),
    "v5p": Chip(
        hbm=95.0,
        flops=459e12,
        bandwidth=2765e9,
        link=600e9,
        network=50e9 / 8,
        per_host=4,
        sources="cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, links "
        "of 1200 GB/s both ways together, 50 Gbit/s of network a chip, 4 chips a host",
    ),
    "h100": Chip(
        hbm=80.0,
        flops=989e12,
        bandwidth=3350e9,
        link=450e9,
        network=50e9,
        per_host=8,
        sources="NVIDIA H100 SXM5 data sheet: 989 TFLOP/s without sparsity, 80 GB, "
        "3.35 TB/s, NVLink of 900 GB/s both ways together; NVIDIA DGX H100 data sheet: "
        "a 400 Gbit/s adapter for each of 8 GPUs",
    ),
}


class Hardware(NamedTuple):
    """A machine, or several."""

    chip: str
    devices: int
    topology: str = ""  # as libtpu names the slice, where the size is published

    @property
    def slices(self) -> bool:
        """Whether the chips' own links go on between hosts, as a TPU's do."""
        return self.chip.startswith("v")


HARDWARE: Mapping[str, Hardware] = {
    "v5e-16": Hardware("v5e", 16, "v5e:4x4"),
    # The name counts cores, of which a chip has two; JAX sees chips.
    "v5p-32": Hardware("v5p", 16, "v5p:2x2x4"),
    "h100x1": Hardware("h100", 1),
    "h100x8": Hardware("h100", 8),
}


def hosts_of(hardware: Hardware) -> int:
    """How many hosts a machine of that name has."""
    return -(-hardware.devices // CHIPS[hardware.chip].per_host)


def grown(hardware: Hardware, hosts: int) -> Hardware:
    """As many hosts of the same kind."""
    return Hardware(hardware.chip, hosts * CHIPS[hardware.chip].per_host)
