"""Bikeshare: bicycles rented in each hour of 2011 in Washington, D.C., by weather and time.

Fanaee-T and Gama, "Bike Sharing", UCI Machine Learning Repository, 2013, as in James et al., "An
Introduction to Statistical Learning with Applications in Python", 2023. The target is a count.
"""

from __future__ import annotations

from pathlib import Path

from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import find_file, read_rows
from atoll.clients.data.tables.table_options import Name, TableOptions
from atoll.clients.ranges import Seed, Share
from atoll.clients.settings import Section

FILE = "Bikeshare.csv"
TARGET = "bikers"
# The two that add up to the target.
PARTS = ("casual", "registered")
CATEGORIES = ("season", "mnth", "hr", "weekday", "weathersit")


class BikeshareOptions(Section):
    """Options of Bikeshare.

    Attributes
    ----------
    group : str
        The column whose values are natural clients, and no input: the month, "weathersit", ...;
        ``data.group`` sets it.
    test_fraction : float
        The share of each group's hours that is for test.
    seed : int
        Decides which.
    """

    group: Name = "mnth"
    test_fraction: Share = 0.2
    seed: Seed = 0


def decode_bikeshare(folder: Path, options: BikeshareOptions) -> Decoded:
    """Decode ``Bikeshare.csv`` of the package ``ISLP``.

    Raises
    ------
    DataUnavailableError
        If the file is not there or cannot be read.
    """
    given = TableOptions(
        target=TARGET,
        group=options.group,
        categories=tuple(name for name in CATEGORIES if name != options.group),
        drop=PARTS,
        loss="poisson",
        test_fraction=options.test_fraction,
        seed=options.seed,
    )
    return decode_table(read_rows(find_file(folder, FILE)), given)
