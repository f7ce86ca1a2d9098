"""Photographs: catalogues, splits, pixels, prompts and batches."""
