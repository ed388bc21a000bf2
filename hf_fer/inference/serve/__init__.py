"""Saved models over HTTP and in a browser."""
