"""One exchange of messages: instructions out, outcomes, sums and replies back."""
