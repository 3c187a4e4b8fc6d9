"""The inpainting endpoint on Ray Serve."""
