"""What keeps a run and its process safe: locks, cancellation, the worker thread, garbage collection."""
