"""Fine-tuning on a user's own pictures: LoRA, or every weight."""
