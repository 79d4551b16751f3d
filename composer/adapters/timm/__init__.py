"""Networks of timm: the catalogue of what they emit, and in `modules` their torch code."""
