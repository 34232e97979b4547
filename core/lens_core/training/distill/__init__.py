"""Few-step distillation: decoupled DMD (arXiv 2511.22677) with a discriminator."""
