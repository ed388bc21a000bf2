"""The systems, a folder each."""

FLAGSHIP = "multimodal_fer"
"""The one that commands take where none is named."""
