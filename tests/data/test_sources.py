"""Reading raw data as a stream: kinds of files, limits, and errors that name file, line and column."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keras_ctr.data import sources
from keras_ctr.data.columns import EncodingError
from keras_ctr.data.sources import count_rows, read_batches, source_columns

TEXT = "user,item,price\n1,a,2.5\n2,,\n3,NA,-1\n"
ROWS = [{"user": 1, "item": "a", "price": 2.5}, {"user": 2, "item": "", "price": None}, {"user": 3, "item": "NA", "price": -1.0}]


def rows(*args, **options):
    return [row for batch in read_batches(*args, **options) for row in batch.to_pylist()]


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "log.txt", "log.TXT.gz"])
def test_text_files(tmp_path, name):
    path = write(tmp_path / name, TEXT if "csv" in name else TEXT.replace(",", "\t"))
    assert rows(path) == ROWS
    assert rows(str(path), ["price", "user"]) == [{"price": r["price"], "user": r["user"]} for r in ROWS]
    assert source_columns(path) == ("user", "item", "price")
    assert count_rows(path) is None


def test_text_without_header_with_another_delimiter_and_types(tmp_path):
    path = write(tmp_path / "log.csv", TEXT.split("\n", 1)[1].replace(",", ";"))
    options = {"column_names": ["user", "item", "price"], "delimiter": ";"}
    assert rows(path, **options) == ROWS
    typed = next(read_batches(path, column_types={"user": pa.string(), "price": pa.float32()}, **options))
    assert typed.schema.field("user").type == pa.string() and typed.schema.field("price").type == pa.float32()


def test_quotes_line_breaks_byte_order_mark_and_carriage_returns(tmp_path):
    path = write(tmp_path / "log.csv", b'\xef\xbb\xbfa,b\r\n1,"x,\ny ""z"""\r\n2,w\r\n')
    assert rows(path) == [{"a": 1, "b": 'x,\ny "z"'}, {"a": 2, "b": "w"}]


def test_labels_may_be_written_as_numbers_or_words(tmp_path):
    path = write(tmp_path / "log.csv", "y\n1\n0.0\nTrue\nfalse\n1.0\n")
    assert [row["y"] for row in rows(path, column_types={"y": pa.bool_()})] == [True, False, True, False, True]


def test_parquet_arrow_tables_functions_frames_folders_and_lists(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as writer:
        writer.write_table(table)
    write(tmp_path / "a.csv", TEXT)
    (tmp_path / "_SUCCESS").write_text("")
    frame = table.to_pandas()
    source = [tmp_path / "b.parquet", table, table.to_batches()[0], lambda: table.to_batches(max_chunksize=1), tmp_path / "c.arrow"]
    assert rows(source) == 5 * ROWS
    assert rows(tmp_path) == 3 * ROWS  # a.csv, b.parquet, c.arrow
    assert [row["user"] for row in rows(frame, ["user"])] == [1, 2, 3]
    assert count_rows([tmp_path / "b.parquet", table]) == 6 and count_rows(source) is None
    assert source_columns(source[3]) == source_columns(tmp_path / "c.arrow") == source_columns(table) == ("user", "item", "price")
    assert rows(source, ["item"]) == 5 * [{"item": r["item"]} for r in ROWS]


def test_batches_are_small_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1000)  # several blocks of text
    text = "a\n" + "".join(f"{i}\n" for i in range(1009))
    table = pa.table({"a": range(1009)})
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (write(tmp_path / "x.csv", text), table, tmp_path / "x.parquet"):
        batches = list(read_batches(source, batch_rows=97))
        assert max(batch.num_rows for batch in batches) <= 97
        assert [value for batch in batches for value in batch["a"].to_pylist()] == list(range(1009))


def test_text_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1 << 10)
    path = write(tmp_path / "x.csv", "a\n" + "1\n" * 50_000 + "word\n")  # the error is far behind the first batch
    batches = read_batches(path, column_types={"a": pa.int64()})
    assert next(batches).num_rows < 1000
    with pytest.raises(ValueError, match=r"x\.csv, line 50002: column 'a': 'word' is not int64"):
        list(batches)


def test_missing_and_empty_files_are_found_at_once(tmp_path):
    good = write(tmp_path / "good.csv", TEXT)
    with pytest.raises(FileNotFoundError, match="nothere.csv: no such file"):
        read_batches([good, tmp_path / "nothere.csv"])
    with pytest.raises(ValueError, match=r"empty\.csv: the file is empty"):
        read_batches([good, write(tmp_path / "empty.csv", "")])
    with pytest.raises(ValueError, match=r"log\.json: unknown kind of file"):
        read_batches(write(tmp_path / "log.json", "{}"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder has no file of a known kind"):
        read_batches(tmp_path / "folder")
    with pytest.raises(ValueError, match="got an empty list"):
        read_batches([])


def test_missing_columns_are_named_with_the_nearest(tmp_path):
    path = write(tmp_path / "log.csv", TEXT)
    for wanted, hint in (("usr", "'usr'; did you mean 'user'"), ("Item", "'Item'; did you mean 'item'"), ("zzz", r"'zzz' \(columns: u")):
        with pytest.raises(EncodingError, match=hint) as caught:
            read_batches(path, ["price", wanted])
        assert "log.csv" in str(caught.value)
    with pytest.raises(EncodingError, match="no column 'b'"):
        rows(lambda: [pa.table({"a": [1]})], ["b"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3\n", r"line 3: Expected 2 columns, got 1"),
        ("a,b\n1,2\nx,3\n", r"line 3: column 'a': 'x' is not int64"),
        ("a,b\n", r"no rows"),
        ("a,b", r"no rows"),
        ("a,a\n1,2\n", r"column 'a' stands twice in the header line; if the file has no header, give column_names"),
        ('a,b\n1,"x\n2,y\n', r"column 'b': a quotation mark opens and is never closed"),
        (b"a,b\n1,\xff\xfe\n", r"line 2: column 'b': invalid UTF8 data"),
        ("a,b\n1,y\n18446744073709551616,z\n", r"line 3: column 'a': '18446744073709551616' is not int64"),
    ],
)
def test_bad_text_is_an_error_that_names_the_place(tmp_path, text, message):
    path = write(tmp_path / "log.csv", text)
    with pytest.raises(ValueError, match=message) as caught:
        rows(path, column_types={"a": pa.int64(), "b": pa.string()})
    assert str(path) in str(caught.value)


def test_a_row_longer_than_a_block_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1000)
    with pytest.raises(ValueError, match="quotation mark opened and never closed"):
        rows(write(tmp_path / "log.csv", 'a\n"' + "x\n" * 2000))


def test_one_of_several_files_may_have_no_rows(tmp_path):
    assert rows([write(tmp_path / "a.csv", "user,item,price\n"), write(tmp_path / "b.csv", TEXT)]) == ROWS


def test_damaged_binary_files_are_named(tmp_path):
    pq.write_table(pa.table({"a": range(1000)}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    write(tmp_path / "x.parquet", whole[:-50])
    with pytest.raises(ValueError, match=r"x\.parquet: not a readable Parquet file"):
        read_batches(tmp_path / "x.parquet")
    write(tmp_path / "x.arrow", b"ARROW1 and then nothing")
    with pytest.raises(ValueError, match=r"x\.arrow: not a readable Arrow file"):
        read_batches(tmp_path / "x.arrow")
    packed = gzip.compress(b"a\n" + b"".join(b"%d\n" % (i * 7919) for i in range(20000)))
    (tmp_path / "x.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"x\.csv\.gz.*[Tt]runcated"):
        rows(tmp_path / "x.csv.gz")
    (tmp_path / "y.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"y\.csv\.gz: the header line cannot be read"):
        read_batches(tmp_path / "y.csv.gz")


def test_what_can_be_read_only_once_is_refused():
    for source in (iter([pa.table({"a": [1]})]), pa.table({"a": [1]}).to_reader()):
        with pytest.raises(TypeError, match="read only once; give a function"):
            read_batches(source)
    with pytest.raises(TypeError, match="got int"):
        read_batches(7)
    with pytest.raises(ValueError, match="batch_rows must be positive"):
        read_batches(pa.table({"a": [1]}), batch_rows=0)
