"""Names of domains, which are columns of the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.errors import DataUnavailableError


def check_domain_names(domains: Sequence[str], prefix: str = "") -> None:
    """Refuse domains that would share their columns in the ledger, whose names have no hyphens.

    Parameters
    ----------
    domains : Sequence[str]
        The names.
    prefix : str
        What stands before the error: where the domains are from.

    Raises
    ------
    DataUnavailableError
        With the two names.
    """
    by_column: dict[str, str] = {}
    for domain in domains:
        other = by_column.setdefault(domain.replace("-", "_"), domain)
        if other != domain:
            raise DataUnavailableError(
                f"{prefix}the domains {other!r} and {domain!r} differ only by '-' and '_' and "
                "would share their columns in the ledger; expected another name for one of them"
            )
