"""Running Lens on the memory people have: plans, what they need, and how they are carried out."""
