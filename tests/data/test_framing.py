import numpy as np
import pytest
import tensorflow as tf

from keras_ctr.data.framing import crc32c, frame_records, scan_records


def records(count=23, seed=0, longest=61):
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(n)) for n in rng.integers(0, longest, count)]


def slow_crc(data):
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def bounds(data):
    """Where each record of sizes `len(data[i])` begins, and where the last ends."""
    return np.cumsum([0, *(len(d) + 16 for d in data)]).tolist()


@pytest.mark.parametrize(
    "data, crc",  # the test vectors of RFC 3720, appendix B.4, and the usual check value
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc_of_known_vectors(data, crc):
    assert crc32c([data])[0] == crc


def test_crc_of_many_sizes_together(monkeypatch):
    monkeypatch.setattr("keras_ctr.data.framing._MATRIX_BYTES", 100)  # several matrices of few rows
    data = [np.random.default_rng(n).bytes(n) for n in (*range(40), 3, 0, 97, 40)]
    assert crc32c(data).tolist() == [slow_crc(d) for d in data]
    assert crc32c([]).tolist() == []


def test_frames_equal_tensorflows(tmp_path):
    data = records(101)
    with tf.io.TFRecordWriter(str(tmp_path / "tf")) as writer:
        for record in data:
            writer.write(record)
    assert frame_records(data) == (tmp_path / "tf").read_bytes()
    assert frame_records([]) == b""


def test_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_ctr.data.framing._WALK_RECORDS", 7)
    path = tmp_path / "whole"
    path.write_bytes(frame_records(records()))
    scan = scan_records(path)
    assert scan.segments == ((0, 23),) and scan.damages == () and scan.num_records == 23 and scan.path == str(path)


def test_empty_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert scan_records(tmp_path / "empty").segments == ()


def test_damaged_bytes_of_a_record_cost_that_record(tmp_path):
    data = records()
    whole, begins = bytearray(frame_records(data)), bounds(data)
    whole[begins[5] + 12] ^= 1
    whole[begins[6] - 1 + 16 + len(data[6])] ^= 128  # the checksum of record 6
    whole[begins[-2] + 13] ^= 4
    (tmp_path / "x").write_bytes(whole)
    scan = scan_records(tmp_path / "x")
    assert scan.segments == ((0, 5), (begins[7], 15))
    assert [(d.offset, d.num_bytes) for d in scan.damages] == [(begins[i], begins[i + 1] - begins[i]) for i in (5, 6, 22)]
    assert all("does not fit its checksum" in d.reason for d in scan.damages)


@pytest.mark.parametrize("byte", [0, 3, 7, 8, 11])
@pytest.mark.parametrize("value", [1, 255])
def test_damaged_size_costs_one_record(tmp_path, monkeypatch, byte, value):
    monkeypatch.setattr("keras_ctr.data.framing._SEARCH_BYTES", 13)
    data = records()
    whole, begins = bytearray(frame_records(data)), bounds(data)
    whole[begins[9] + byte] ^= value
    (tmp_path / "x").write_bytes(whole)
    scan = scan_records(tmp_path / "x")
    assert scan.segments == ((0, 9), (begins[10], 13))
    assert [(d.offset, d.num_bytes) for d in scan.damages] == [(begins[9], begins[10] - begins[9])]
    assert "size of the record does not fit its checksum" in scan.damages[0].reason


def test_truncated_anywhere(tmp_path):
    data = records(5)
    whole, begins = frame_records(data), bounds(data)
    for end in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:end])
        scan = scan_records(tmp_path / "x")
        kept = max(i for i, begin in enumerate(begins) if begin <= end)
        assert scan.num_records == kept
        assert [d.offset for d in scan.damages] == ([] if end in begins else [begins[kept]])
        assert all("the file ends inside" in d.reason for d in scan.damages)


def test_bytes_lost_in_the_middle(tmp_path):
    data = records()
    whole, begins = frame_records(data), bounds(data)
    (tmp_path / "x").write_bytes(whole[: begins[4] + 5] + whole[begins[8] + 3 :])
    scan = scan_records(tmp_path / "x")
    assert scan.num_records == 4 + 14
    assert scan.damages[0].offset == begins[4]


def test_first_damage_only(tmp_path):
    data = records()
    whole, begins = bytearray(frame_records(data)), bounds(data)
    for i in (3, 12):
        whole[begins[i]] ^= 1
    (tmp_path / "x").write_bytes(whole)
    assert [d.offset for d in scan_records(tmp_path / "x", first_damage_only=True).damages] == [begins[3]]


def test_no_tfrecord_at_all(tmp_path):
    (tmp_path / "x").write_bytes(b"user,item,click\n" * 17)
    scan = scan_records(tmp_path / "x")
    assert scan.num_records == 0 and scan.damages[0].offset == 0 and scan.damages[0].num_bytes == 16 * 17
