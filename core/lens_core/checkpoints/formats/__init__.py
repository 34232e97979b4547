"""Number formats that weights are packed in, each with `pack` and `unpack`."""
