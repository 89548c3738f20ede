"""The benchmark of smaller tables: what it writes down. No clock decides anything here."""

import json

import pytest

from benchmarks import small_tables


@pytest.mark.slow
def test_a_measurement_writes_a_document(tmp_path, capsys):
    out = tmp_path / "small.json"
    small_tables.main(["--out", str(out), "--rows", "4000", "--dim", "16", "--batch", "7", "--requests", "2"])
    document = json.loads(out.read_text())
    cells = document["tables"]
    assert document["sizes"] == {"rows": 4000, "dim": 16, "fields": 4, "batch": 7} and list(cells) == list(small_tables.TABLES)
    assert [cell["table_bytes"] for cell in cells.values()] == [4000 * 64, 4000 * (16 + 4), 4000 * 32]
    sizes = [cell["folder_bytes"] for cell in cells.values()]
    # Beside the tables all three folders are alike: only the graph of the look-up differs.
    assert all(
        abs((sizes[0] - size) - (4000 * 64 - cell["table_bytes"])) < 20_000 for size, cell in zip(sizes, cells.values(), strict=True)
    )
    assert 0 == cells["float32"]["largest_score_change"] < cells["float16"]["largest_score_change"] < cells["int8"]["largest_score_change"]
    assert all(cell["requests"] == 2 and cell["resident_bytes"] > cell["folder_bytes"] for cell in cells.values())
    printed = capsys.readouterr().out
    assert small_tables.table(document) in printed and "| int8 | " in printed
