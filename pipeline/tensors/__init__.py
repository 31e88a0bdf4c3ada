"""Number formats, arithmetic and digests: bytes and arrays in, bytes and arrays out, no I/O."""
