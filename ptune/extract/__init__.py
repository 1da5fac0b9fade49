"""Videos become features: decoded frames, TV-L1 flow, motion boundaries, stored and memory-mapped."""
