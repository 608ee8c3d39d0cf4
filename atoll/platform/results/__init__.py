"""What is done with runs that are there: opening, exporting, listing, comparing, plotting."""
