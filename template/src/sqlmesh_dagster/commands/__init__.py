"""What is typed in a terminal: `poe run`, `poe plan` and the others start a Dagster run and show it."""
