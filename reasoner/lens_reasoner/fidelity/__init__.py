"""Whether a rewritten prompt still states what was asked for: by words alone, or by a model."""

from lens_reasoner.fidelity.lexical import LexicalFidelity
from lens_reasoner.fidelity.llm import LLMFidelity

__all__ = ["LLMFidelity", "LexicalFidelity"]
