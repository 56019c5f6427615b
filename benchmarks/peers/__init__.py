"""One method of one library each, as a user of that library would write it; see `compare.py`."""
