"""Definitions that Dagster finds by itself: each module of this folder, and each `defs.yaml`."""
