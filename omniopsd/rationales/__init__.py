"""`omniopsd rationales`: looking into a rationale cache, and filling it."""
