"""Clients that leave a federation: the section ``[unlearn]``, and what it can go with."""
