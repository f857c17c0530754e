"""`eyas report`: one HTML file for runs, that opens from disk without a network. Imports neither torch nor Lightning."""
