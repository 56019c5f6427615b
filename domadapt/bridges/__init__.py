"""Other libraries' algorithms and scores under this trainer; each needs its extra."""
