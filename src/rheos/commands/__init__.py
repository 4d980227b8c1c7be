"""The commands, one module a verb; each is imported when it is asked for."""
