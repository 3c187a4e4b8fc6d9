"""Actor pools: units of rows streamed through stages, on Ray Data or in a plain loop."""
