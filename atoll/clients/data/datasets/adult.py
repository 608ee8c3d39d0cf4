"""Adult: who earns more than 50,000 dollars a year, by the census of 1994 (UCI).

Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996, CC BY 4.0; with its own test set.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import TableRows, find_file
from atoll.clients.data.tables.table_options import Name, TableOptions
from atoll.clients.settings import Section
from atoll.errors import DataUnavailableError

TARGET = "income"
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation"),
    *("relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week"),
    *("native_country", TARGET),
)


class AdultOptions(Section):
    """Options of Adult.

    Attributes
    ----------
    group : str or None
        A column whose values are natural clients (occupation, native_country, ...), and no input;
        ``data.group`` sets it.
    """

    group: Name | None = None


def decode_adult(folder: Path, options: AdultOptions) -> Decoded:
    """Decode ``adult.data`` and ``adult.test``.

    Raises
    ------
    DataUnavailableError
        If a file is not there or cannot be read.
    """
    train, test = (_rows(find_file(folder, f"adult.{part}")) for part in ("data", "test"))
    return decode_table(train, TableOptions(target=TARGET, group=options.group), test)


def _rows(file: Path) -> TableRows:
    with file.open(encoding="utf-8", newline="") as lines:
        # The test file begins with a remark.
        rows = [row for row in csv.reader(lines, skipinitialspace=True) if len(row) > 1]
    if any(len(row) != len(COLUMNS) for row in rows):
        raise DataUnavailableError(f"{file}: expected rows of {len(COLUMNS)} cells")
    table = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    # In the test file answers end with a full stop.
    table[TARGET] = [answer.rstrip(".") for answer in table[TARGET]]
    return TableRows(pa.table(table), file.name)
