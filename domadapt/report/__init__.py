"""A finished run as data, and what draws it: figures, the page, a summary for the terminal."""
