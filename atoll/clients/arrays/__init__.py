"""Models as Flower arrays, and exact weighted sums of them."""
