"""The frame around every record of a TFRecord file: writing it, checking it, and finding what is whole in a damaged file. NumPy only.

A record is: size n (8 bytes, little-endian), checksum of those 8 bytes (4), the n bytes, checksum of the n bytes (4). The checksum is
CRC-32C (Castagnoli), rotated right by 15 bits and moved by a constant ("masked"), so that a checksum of data with checksums stays good.

NumPy has no CRC, and one record at a time would be slow in Python, so many records go through the tables side by side.
"""

import mmap
import os
import struct
from dataclasses import dataclass

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK_DELTA = 0xA282EAD8
HEADER_BYTES = 12
FOOTER_BYTES = 4
# Rows times bytes of the matrix that goes through the tables at once.
_MATRIX_BYTES = 2_000_000
_SEARCH_BYTES = 1 << 20
_WALK_RECORDS = 4096


class CorruptDataError(ValueError):
    """Prepared data that cannot be read as they were written.

    Attributes:
        path: The damaged file.
        offset: Byte in it at which reading fails, or None where the file as a whole does not fit.
    """

    def __init__(self, message, path=None, offset=None):
        super().__init__(message)
        self.path = path
        self.offset = offset


@dataclass(frozen=True)
class Damage:
    """A stretch of a file that cannot be read: first byte, number of bytes, and what is wrong with it."""

    offset: int
    num_bytes: int
    reason: str


@dataclass(frozen=True)
class Scan:
    """What a TFRecord file holds.

    Attributes:
        path: The file.
        segments: Runs of whole records: (byte at which the run begins, number of records).
        damages: What lies between them.
    """

    path: str
    segments: tuple[tuple[int, int], ...]
    damages: tuple[Damage, ...]

    @property
    def num_records(self) -> int:
        """Number of whole records."""
        return sum(count for _, count in self.segments)


def _byte_tables():
    """Returns CRC tables (8, 256): row k holds the checksums of one byte followed by k zero bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    tables = [table]
    for _ in range(7):
        tables.append(table[tables[-1] & 255] ^ (tables[-1] >> np.uint32(8)))
    return np.stack(tables)


_BYTES = _byte_tables()
_PAIRS = [_BYTES[2 * k + 1][np.arange(65536) & 255] ^ _BYTES[2 * k][np.arange(65536) >> 8] for k in range(4)]  # the same for two bytes


def _crc_of_words(words):
    """Returns the CRC-32C (n,) of the columns of (4 k, n) 16-bit words whose initial register (all ones) is in the words already."""
    crc = np.zeros(words.shape[1], np.uint32)
    for i in range(0, len(words), 4):
        following = _PAIRS[3].take(words[i] ^ crc.astype(np.uint16))
        following ^= _PAIRS[2].take(words[i + 1] ^ (crc >> np.uint32(16)).astype(np.uint16))
        following ^= _PAIRS[1].take(words[i + 2])
        following ^= _PAIRS[0].take(words[i + 3])
        crc = following
    return ~crc


def _crc_of_few_bytes(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = int(_BYTES[0][(crc ^ byte) & 255]) ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc32c(records) -> np.ndarray:
    """Returns the CRC-32C of each of a list of byte strings: (n,) uint32.

    With an initial register of zero, zero bytes in front change nothing: so records of different sizes are right-aligned and go
    through the tables together. The real initial register, all ones, is the same as the first four bytes inverted.
    """
    sizes = np.array([len(record) for record in records], np.int64)
    out = np.empty(len(records), np.uint32)
    order = np.argsort(sizes, kind="stable")
    short = int(np.searchsorted(sizes[order], 4))
    for i in order[:short]:
        out[i] = _crc_of_few_bytes(records[i])
    end = len(order)
    while end > short:  # the longest first: they say how wide the matrix is
        width = -(-int(sizes[order[end - 1]]) // 8) * 8
        start = max(short, end - max(1, _MATRIX_BYTES // width))
        part = order[start:end]
        matrix = np.frombuffer(bytearray().join([records[i].rjust(width, b"\0") for i in part]), np.uint8).reshape(-1, width)
        first = width - sizes[part]
        for k in range(4):
            matrix[np.arange(len(part)), first + k] ^= 255
        out[part] = _crc_of_words(np.ascontiguousarray(matrix.view("<u2").T))
        end = start
    return out


def _masked(crc):
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK_DELTA)


def frame_records(records) -> bytes:
    """Returns the bytes that a TFRecord file holds for a list of records."""
    sizes = np.array([len(record) for record in records], "<u8")
    raw = sizes.view(np.uint8).reshape(-1, 8)
    headers = np.concatenate([raw, _header_checks(raw).astype("<u4").view(np.uint8).reshape(-1, 4)], axis=1).tobytes()
    footers = _masked(crc32c(records)).astype("<u4").tobytes()
    parts = []
    for i, record in enumerate(records):
        parts += (headers[HEADER_BYTES * i : HEADER_BYTES * (i + 1)], record, footers[FOOTER_BYTES * i : FOOTER_BYTES * (i + 1)])
    return b"".join(parts)


def _header_checks(raw):
    """Returns the masked checksums (n,) that belong to the sizes (n, 8) uint8 at the beginning of n records."""
    crc = np.zeros(len(raw), np.uint32)
    for k in range(8):
        crc ^= _BYTES[7 - k].take(raw[:, k] ^ (255 if k < 4 else 0))
    return _masked(~crc)


def _columns(parts, width):
    """Returns byte strings of one size as an array (n, width) uint8."""
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, width)


def _sound(headers):
    """Returns which of n headers (n, 12) uint8 fit their checksum."""
    stored = headers[:, 8:].astype(np.uint32) << np.array([0, 8, 16, 24], np.uint32)
    return _header_checks(headers[:, :8]) == np.bitwise_or.reduce(stored, axis=1)


def _next_header(data, start):
    """Returns the first byte from `start` on at which a sound header of a record that fits into the data begins, or None."""
    for begin in range(start, len(data) - HEADER_BYTES - FOOTER_BYTES + 1, _SEARCH_BYTES):
        window = np.frombuffer(data[begin : begin + _SEARCH_BYTES + HEADER_BYTES - 1], np.uint8)
        for i in np.flatnonzero(_sound(np.lib.stride_tricks.sliding_window_view(window, HEADER_BYTES))):
            if _record_end(data, begin + int(i)) is not None:
                return begin + int(i)
    return None


def _record_end(data, at):
    """Returns the byte after the record that begins at `at`, trusting its size, or None if it does not fit into the data."""
    if at + HEADER_BYTES > len(data):
        return None
    end = at + HEADER_BYTES + struct.unpack_from("<Q", data, at)[0] + FOOTER_BYTES
    return end if end <= len(data) else None


def _walk(data, at, limit):
    """Returns where at most `limit` records from `at` on begin, and where the last of them ends: [begin, ..., end]."""
    bounds = [at]
    while len(bounds) <= limit and (end := _record_end(data, bounds[-1])) is not None:
        bounds.append(end)
    headers = _columns([data[begin : begin + HEADER_BYTES] for begin in bounds[:-1]], HEADER_BYTES)
    sound = _sound(headers)
    return bounds if sound.all() else bounds[: int(sound.argmin()) + 1]


def _header_reason(data, at):
    """Returns what is wrong with a record that cannot be followed."""
    if at + HEADER_BYTES > len(data):
        return "the file ends inside the size of a record"
    if not _sound(_columns([data[at : at + HEADER_BYTES]], HEADER_BYTES))[0]:
        return "the size of the record does not fit its checksum"
    return "the file ends inside the record"


def scan_records(path, *, first_damage_only=False) -> Scan:
    """Reads a TFRecord file record by record and returns which of it is whole.

    A record whose own bytes are damaged is left out alone. Where a size is damaged, the next sound header is searched byte by byte,
    so that what follows is not lost.

    Args:
        path: The file.
        first_damage_only: Stop soon after the first damage.

    Returns:
        A `Scan`; `damages` is empty for a whole file.
    """
    with open(path, "rb") as file:
        if not os.path.getsize(path):
            return Scan(os.fspath(path), (), ())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Scan(os.fspath(path), *_scan(data, first_damage_only))


def _scan(data, first_damage_only):
    """Returns the segments and damages of a `Scan`."""
    segments, damages, at, run_end = [], [], 0, None
    while at < len(data) and not (first_damage_only and damages):
        bounds = _walk(data, at, _WALK_RECORDS)
        if len(bounds) == 1:
            following = _next_header(data, at + 1)
            end = len(data) if following is None else following
            damages.append(Damage(at, end - at, _header_reason(data, at)))
            at = end
            continue
        spans = list(zip(bounds[:-1], bounds[1:], strict=True))
        checks = _columns([data[end - FOOTER_BYTES : end] for _, end in spans], FOOTER_BYTES).view("<u4")[:, 0]
        whole = _masked(crc32c([data[begin + HEADER_BYTES : end - FOOTER_BYTES] for begin, end in spans])) == checks
        for (begin, end), intact in zip(spans, whole, strict=True):
            if not intact:
                damages.append(Damage(begin, end - begin, "the record does not fit its checksum"))
                continue
            if begin == run_end:
                segments[-1] = (segments[-1][0], segments[-1][1] + 1)
            else:
                segments.append((begin, 1))
            run_end = end
        at = bounds[-1]
    return tuple(segments), tuple(damages)
