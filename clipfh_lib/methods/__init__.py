"""What is trained: one LightningModule and one fit a method."""
