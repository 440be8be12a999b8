"""Settings: what each is for, what it may be, its defaults, and how those of a run are written down."""
