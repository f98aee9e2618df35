"""Running the operations of all live programs together, in batches."""
