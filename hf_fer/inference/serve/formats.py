"""Tells the kind of an upload by its first bytes, never by its name."""

HEAD = 512
"""Number of bytes that are read."""

SIGNATURES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "sound": (
        (0, b"fLaC"),
        (0, b"OggS"),
        (0, b"ID3"),
        (0, b"#!AMR"),
        (0, b"caff"),
        (0, b".snd"),
        (8, b"WAVE"),
        (8, b"AIFF"),
        (8, b"AIFC"),
        (0, b"wvpk"),
    ),
    "video": (
        (4, b"ftyp"),
        (4, b"moov"),
        (4, b"mdat"),
        (4, b"wide"),
        (0, b"\x1aE\xdf\xa3"),
        (8, b"AVI "),
        (0, b"FLV\x01"),
        (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        (0, b"\x00\x00\x01\xba"),
        (0, b"\x00\x00\x01\xb3"),
    ),
    "image": (
        (0, b"\x89PNG\r\n\x1a\n"),
        (0, b"\xff\xd8\xff"),
        (0, b"BM"),
        (0, b"II*\x00"),
        (0, b"MM\x00*"),
        (8, b"WEBP"),
        (128, b"DICM"),
        (0, b"\x08\x00"),
        (0, b"\x02\x00\x00\x00UL"),
        (0, b"\x02\x00\x01\x00OB"),
    ),
}
"""Kind -> (offset, signature) of its formats. Playlists and other files that refer to further files are left out."""


def kind_of(head: bytes) -> str | None:
    """`sound`, `video` or `image`, or `None` for a format that is not accepted."""
    for kind, signatures in SIGNATURES.items():
        if any(head[start:].startswith(mark) for start, mark in signatures):
            return kind
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # a frame of MP3 or AAC
        return "sound"
    if head[0:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":  # MPEG transport stream
        return "video"
    return None
