"""Scalars -> TensorBoard's event files, a few lines of bytes each.

Written by hand because the usual writers import torch or TensorFlow wherever one is
installed. A file is a sequence of records, a record is

    length   uint64, little endian
    crc      uint32, masked CRC-32C of the length's bytes
    data     `length` bytes: a protocol buffer, see below
    crc      uint32, masked CRC-32C of the data

    Event    1: wall_time double, 2: step int64, 3: file_version string, 5: Summary
    Summary  1: repeated Value
    Value    1: tag string, 2: simple_value float

Source: TensorBoard's event.proto and summary.proto, and the TFRecord format.
"""

import functools
import struct
from collections.abc import Mapping


def encode(step: int, values: Mapping[str, float], wall_time: float) -> bytes:
    """A whole event file with one step's scalars.

    Args:
      step: the step; not negative.
      values: from tag to finite value.
      wall_time: seconds since 1970.

    Returns:
      The file's bytes.
    """
    clock = b"\x09" + struct.pack("<d", wall_time)
    version = clock + _field(3, b"brain.Event:2")
    summary = b"".join(
        _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in values.items()
    )
    event = clock + b"\x10" + _varint(step) + _field(5, summary)
    return _record(version) + _record(event)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    """The rotated and shifted checksum, so that a record may hold records."""
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes, a string or a message."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return tuple(table)
