"""Fine-tune Chinese sentence-embedding models, export them, and measure every artifact."""

__version__ = "0.1.0"
