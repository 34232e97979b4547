"""Pictures and captions for training: shards by bucket, and the loader that every stage reads.

`lens data shard` writes them; `loader` draws batches whose order depends on numbers alone;
`encoding` turns batches into what the denoiser reads.
"""
