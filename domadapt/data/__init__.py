"""Where domains come from: arrays, image folders, tables, and the catalogue of named tasks."""
