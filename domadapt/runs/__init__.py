"""One training run: what is fixed before it (`plan`), a trained model of it, its saved folder."""
