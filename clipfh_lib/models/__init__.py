"""What turns pixels and words into vectors."""
