"""Which candidate to trust, judged without target labels."""
