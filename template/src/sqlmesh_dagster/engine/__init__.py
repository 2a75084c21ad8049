"""SQLMesh at work. The only room that imports it, apart from `console.py`: 2 to 5 CPU seconds in each process that does."""
