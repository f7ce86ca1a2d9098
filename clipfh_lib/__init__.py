"""Fine-tuning CLIP to match people by photographs of their hands."""

__version__ = "0.1.0"
