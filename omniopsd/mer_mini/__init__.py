"""MER-MINI: a generated benchmark of emotional clips in real media files, with evidence and rationales."""
