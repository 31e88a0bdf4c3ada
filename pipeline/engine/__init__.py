"""A run as data: what is read, computed and written where; and the one loop that walks it."""
