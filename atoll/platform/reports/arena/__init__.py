"""What an arena's report says in words."""
