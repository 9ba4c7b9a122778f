"""Whether the hub can be read: asked once, briefly, and explained."""
