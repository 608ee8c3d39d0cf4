"""Loading of a user's table (``data.dataset = "table"``): decoded once, kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, write_dataset
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import read_rows, sha256_of_files
from atoll.clients.data.tables.table_options import TableOptions
from atoll.errors import InvalidExperimentError
from atoll.files.atomic import appearing

# Bump to forget tables that older code has decoded otherwise.
FORMAT = 1


def load_table(path: Path | None, options: TableOptions) -> Dataset:
    """Return a table as a data set, from the cache if its files and options are the same.

    Parameters
    ----------
    path : Path or None
        ``data.path``: a file, or a folder of files.
    options : TableOptions
        ``[data.options]``.

    Raises
    ------
    AtollError
        If there is no path, the files cannot be read, or an option does not fit the table.
    """
    if path is None:
        raise InvalidExperimentError(
            "data.path is not set; expected a file of a table (CSV or Parquet), or a folder of "
            "them, for data.dataset = 'table'"
        )
    described = [str(FORMAT), options.model_dump_json(exclude={"test_path"})]
    described += [sha256_of_files(p) for p in (path, options.test_path) if p is not None]
    key = hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]
    target = cache_root() / "datasets" / f"table-{key}"
    if not (target / "dataset.json").exists():
        test = None if options.test_path is None else read_rows(options.test_path)
        decoded = decode_table(read_rows(path), options, test)
        with appearing(target) as folder:
            write_dataset(path.resolve().stem, decoded, folder)
    return Dataset(target)
