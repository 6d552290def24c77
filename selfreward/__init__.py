"""Self-rewarding fine-tuning of language models on a small budget."""

__version__ = "0.1.0"
