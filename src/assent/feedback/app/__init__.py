"""The labelling app: pages rendered on the server, one small script for the keys."""
