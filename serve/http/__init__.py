"""The endpoint's HTTP interface: fields, bodies, routes, errors and their OpenAPI document."""
