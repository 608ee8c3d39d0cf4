"""Data sets that are tables: files read, kinds of columns found, rows split."""
