"""Files of tables as people have them: what is read, and one line for what cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from atoll.clients.data.tables.table_files import read_rows, sha256_of_files
from atoll.errors import DataUnavailableError


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(path: Path) -> str:
    with pytest.raises(DataUnavailableError) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_what_separates_cells_is_found(mark: str, tmp_path: Path) -> None:
    rows = [["age", "pain, if any"], ["54", "some"], ["61", "none"]]
    text = "\n".join(mark.join(f'"{cell}"' for cell in row) for row in rows)
    table = read_rows(write(tmp_path / "a.csv", text)).table
    assert table.to_pydict() == {"age": ["54", "61"], "pain, if any": ["some", "none"]}


def test_a_file_may_have_a_mark_at_its_start_quotes_newlines_and_be_zipped(tmp_path: Path) -> None:
    text = '\ufeff"a b",c\r\n"1\n2",é\r\n'
    expected = {"a b": ["1\n2"], "c": ["é"]}
    assert read_rows(write(tmp_path / "a.csv", text)).table.to_pydict() == expected
    zipped = write(tmp_path / "a.csv.gz", gzip.compress(text.encode()))
    assert read_rows(zipped).table.to_pydict() == expected


def test_a_folder_has_a_group_for_each_file(tmp_path: Path) -> None:
    write(tmp_path / "north.csv", "a,b\n1,2\n3,4\n")
    pa_parquet.write_table(pa.table({"b": ["6"], "a": ["5"]}), tmp_path / "south.parquet")
    write(tmp_path / "README.md", "no table")
    rows = read_rows(tmp_path)
    assert rows.table.to_pydict() == {"a": ["1", "3", "5"], "b": ["2", "4", "6"]}
    assert rows.files is not None
    assert rows.files.tolist() == [0, 0, 1]
    assert rows.file_names == ("north", "south")


def test_a_hash_follows_names_and_contents(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "a.csv", "a,b\n1,2\n").parent
    two = write(tmp_path / "two" / "a.csv", "a,b\n1,2\n").parent
    assert sha256_of_files(one) == sha256_of_files(two)
    write(two / "a.csv", "a,b\n1,3\n")
    assert sha256_of_files(one) != sha256_of_files(two)


def test_row_numbers_of_pandas_are_left_out(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.5], "b": ["x"]}).to_csv(tmp_path / "a.csv")
    assert read_rows(tmp_path / "a.csv").table.column_names == ["a", "b"]


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "none.csv")
    assert "expected a file *.csv" in error_of(write(tmp_path / "a.xlsx", "x"))
    assert "is empty" in error_of(write(tmp_path / "empty.csv", ""))
    assert "has no rows" in error_of(write(tmp_path / "header.csv", "a,b\n"))
    assert "the column 'a' twice" in error_of(write(tmp_path / "twice.csv", "a,a\n1,2\n"))
    assert "Expected 2 columns, got 3" in error_of(write(tmp_path / "long.csv", "a,b\n1,2,3\n"))
    assert "utf" in error_of(write(tmp_path / "latin.csv", "a,b\n1,é\n".encode("latin-1"))).lower()
    assert "cannot be read" in error_of(write(tmp_path / "a.parquet", "no parquet"))
    (tmp_path / "nothing").mkdir()
    assert "holds no file" in error_of(tmp_path / "nothing")


def test_files_of_a_folder_have_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x,y\n1,2\n")
    write(tmp_path / "b.csv", "x\n1\n")
    assert "b.csv: has no column 'y', which a.csv has" in error_of(tmp_path)
    write(tmp_path / "b.csv", "x,y,z\n1,2,3\n")
    assert "b.csv: has a column 'z', which a.csv has not" in error_of(tmp_path)


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(3), "b": [True, None, False]})
    pa_parquet.write_table(table, tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet").table.schema.types == [pa.int64(), pa.bool_()]
