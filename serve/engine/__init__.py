"""The engine of one replica: requests share UNet calls, step by step; its model and its learned tokens."""
