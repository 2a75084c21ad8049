"""Which definitions are current: what a load of the project read, by content, and where its records are kept."""
