"""
Taking in: from the bytes of a request to the records that the store keeps.

All modules but ``endpoints`` are pure functions of bytes and of the time, without I/O.
"""
