"""Features become network inputs: which frames, which crop, mirrored or not, scaled to [-1, 1]."""
