"""Figures of reports, as data that a page draws."""
