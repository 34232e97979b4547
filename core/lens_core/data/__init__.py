"""Images and captions for training: shards by bucket, and the loader used by every stage.

`lens data shard` writes the shards, `loader` draws batches in a deterministic order, and `encoding`
turns batches into the denoiser's inputs.
"""
