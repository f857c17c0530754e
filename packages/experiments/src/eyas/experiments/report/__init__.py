"""`eyas report`: one HTML file on runs that opens from disk without a network. Imports neither torch nor Lightning."""
