"""From embeddings to rates with intervals."""
