"""The one client of the endpoint: requests and results, over HTTP or a Ray Serve handle."""
