"""Alignment methods: penalties over domains' statistics."""
