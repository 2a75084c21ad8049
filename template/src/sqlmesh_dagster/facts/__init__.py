"""What SQLMesh did, found or would do: plain data that crosses threads, processes and releases."""
