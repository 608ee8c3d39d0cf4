"""What commands print: tables, plans, and progress."""
